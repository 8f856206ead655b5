//! The options that a mount may have in a Dataset.
//!
//! A closed list: what it does not name, a credential for example, is refused before it is stored.

use kube::core::{Message, Rule};

/// One option of under stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountOption {
    /// Its name in a Dataset.
    pub name: &'static str,
    /// Its name in `docs/options.md` and for the masters.
    pub key: &'static str,
    /// The schemes of under stores that know it.
    pub schemes: &'static [&'static str],
    form: Form,
}

/// What the values of an option look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Url,
    Boolean,
    Number,
    Time,
}

const ALL: &[&str] = &["s3", "gs", "az"];
const S3: &[&str] = &["s3"];

const fn option(
    name: &'static str,
    key: &'static str,
    schemes: &'static [&'static str],
    form: Form,
) -> MountOption {
    MountOption {
        name,
        key,
        schemes,
        form,
    }
}

/// Every option, but `sync`, which is a field of the mount, and `profile`, which names a part of
/// files that pods do not have.
pub const MOUNT_OPTIONS: [MountOption; 12] = [
    option("endpoint", "endpoint", ALL, Form::Url),
    option("region", "region", S3, Form::Text),
    option("pathStyle", "path_style", S3, Form::Boolean),
    option("anonymous", "anonymous", ALL, Form::Boolean),
    option("account", "account", &["az"], Form::Text),
    option("connectTimeout", "connect_timeout", ALL, Form::Time),
    option("requestTimeout", "request_timeout", ALL, Form::Time),
    option("idleTimeout", "idle_timeout", S3, Form::Time),
    option("connections", "connections", S3, Form::Number),
    option("listParallel", "list_parallel", S3, Form::Number),
    option("retries", "retries", ALL, Form::Number),
    option("retryBudget", "retry_budget", S3, Form::Number),
];

impl Form {
    fn pattern(self) -> &'static str {
        match self {
            Form::Text => "^[A-Za-z0-9._-]+$",
            Form::Url => "^https?://[^/@?#]+/?$",
            Form::Boolean => "^(true|false)$",
            Form::Number => "^[0-9]{1,7}$",
            Form::Time => "^[1-9][0-9]{0,7}(ms|s|m)$",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Form::Text => "letters, digits, '.', '_' and '-'",
            Form::Url => "http://host:port or https://host:port, without user, path and query",
            Form::Boolean => "\"true\" or \"false\", in quotes",
            Form::Number => "a number in quotes, such as \"64\"",
            Form::Time => "a time such as 500ms, 10s or 2m",
        }
    }
}

fn names(such: impl Fn(&MountOption) -> bool) -> Vec<&'static str> {
    let such = MOUNT_OPTIONS.iter().filter(|option| such(option));
    such.map(|option| option.name).collect()
}

/// Rule of a mount: each scheme has the options that it knows.
pub(crate) fn known(scheme: &str) -> Rule {
    let names = names(|option| option.schemes.contains(&scheme));
    Rule::new(format!(
        "!has(self.options) || !self.uri.startsWith('{scheme}://') || self.options.all(k, k in {names:?})"
    ))
    .message(Message::Message(format!(
        "options of a mount of {scheme}:// are {}; credentials belong into the Secret of secretRef",
        names.join(", ")
    )))
}

/// Rule of the options of a mount: those of one form look like it.
pub(crate) fn well_formed(form: Form) -> Rule {
    let names = names(|option| option.form == form);
    let pattern = form.pattern();
    Rule::new(format!(
        "self.all(k, !(k in {names:?}) || self[k].matches('{pattern}'))"
    ))
    .message(Message::Message(format!(
        "{}: {}",
        names.join(", "),
        form.meaning()
    )))
}

//! What can fail when a plan is carried out.

/// A plan that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused, or could not be reached.
    #[error("{what}: {}", told(source))]
    Api {
        what: String,
        source: Box<kube::Error>,
    },
    /// Somebody else has an object of the name that we need.
    #[error("{0} is there already and not ours: rename it, or delete it")]
    NameInUse(String),
    /// The webhook cannot be served.
    #[error("cannot serve the webhook: {0}")]
    Webhook(String),
    /// Credentials cannot be sealed.
    #[error(transparent)]
    Seal(#[from] forebay_seal::SealError),
    /// A call to the masters.
    #[error(transparent)]
    Call(#[from] forebay_client::Error),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failed request.
    pub(crate) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
        let what = what.into();
        move |source| Error::Api {
            what,
            source: Box::new(source),
        }
    }

    /// In CamelCase, for conditions, events and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Error::Api { source, .. } => match &**source {
                kube::Error::Api(status) if status.code == 403 => "Forbidden",
                kube::Error::Api(status) if status.code == 422 => "Refused",
                _ => "ApiServerFailed",
            },
            Error::NameInUse(_) => "NameInUse",
            Error::Webhook(_) => "WebhookFailed",
            Error::Seal(_) => "SealFailed",
            Error::Call(error) => crate::plan::mount::reason(error.code),
        }
    }

    /// Whether it was refused for good, and a person has to know.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Error::Api { source, .. } => {
                matches!(&**source, kube::Error::Api(s) if matches!(s.code, 400 | 403 | 405 | 422))
            }
            Error::NameInUse(_) | Error::Seal(_) => true,
            Error::Webhook(_) | Error::Call(_) => false,
        }
    }
}

/// One line of what the library says.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether a request failed because the object is not there.
pub(crate) fn is_missing(error: &kube::Error) -> bool {
    has_code(error, 404)
}

/// Whether a request failed with a code of HTTP.
pub(crate) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

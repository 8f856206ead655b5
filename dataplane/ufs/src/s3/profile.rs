//! The AWS files: `~/.aws/config` and `~/.aws/credentials`, as much of them as names a key.

use crate::{Error, Result, config::Environment};
use forebay_types::Code;
use object_store::aws::AwsCredential;
use std::collections::BTreeMap;

/// What the files say of one profile. Holds secrets: no Debug.
#[derive(Default)]
pub(crate) struct Profile {
    pub(crate) name: String,
    settings: BTreeMap<String, String>,
}

impl Profile {
    /// Reads the profile `wanted`, else `AWS_PROFILE`, else `default`. A profile that was asked
    /// for must exist.
    pub(crate) fn load(wanted: Option<&str>, environment: &Environment) -> Result<Profile> {
        let asked = wanted
            .map(str::to_owned)
            .or_else(|| environment.variable("AWS_PROFILE"));
        let name = asked.clone().unwrap_or_else(|| "default".to_owned());
        let home = environment.variable("HOME");
        let file = |variable: &str, tail: &str| {
            let path = environment
                .variable(variable)
                .or_else(|| home.as_ref().map(|home| format!("{home}/.aws/{tail}")))?;
            environment.file(&path)
        };
        let mut settings = BTreeMap::new();
        let mut found = false;
        // The credentials file wins over the configuration file.
        if let Some(text) = file("AWS_CONFIG_FILE", "config") {
            let header = if name == "default" {
                name.clone()
            } else {
                format!("profile {name}")
            };
            found |= section(&text, &header, &mut settings);
            if name == "default" {
                found |= section(&text, "profile default", &mut settings);
            }
        }
        if let Some(text) = file("AWS_SHARED_CREDENTIALS_FILE", "credentials") {
            found |= section(&text, &name, &mut settings);
        }
        if asked.is_some() && !found {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "no AWS profile '{}' in ~/.aws/config or ~/.aws/credentials: name another with AWS_PROFILE or the option profile",
                    name.escape_debug()
                ),
            ));
        }
        Ok(Profile { name, settings })
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.settings
            .get(key)
            .filter(|value| !value.is_empty())
            .cloned()
    }

    /// The keys that the profile holds, if it holds any.
    pub(crate) fn credential(&self) -> Result<Option<AwsCredential>> {
        match (
            self.get("aws_access_key_id"),
            self.get("aws_secret_access_key"),
        ) {
            (Some(key_id), Some(secret_key)) => {
                let token = self.get("aws_session_token");
                Ok(Some(AwsCredential {
                    key_id,
                    secret_key,
                    token,
                }))
            }
            (None, None) => {
                let indirect = [
                    "credential_process",
                    "sso_session",
                    "sso_start_url",
                    "role_arn",
                ];
                match indirect
                    .into_iter()
                    .find(|key| self.settings.contains_key(*key))
                {
                    None => Ok(None),
                    Some(key) => Err(Error::new(
                        Code::Unsupported,
                        format!(
                            "the AWS profile '{0}' gets its keys by {key}, which is not supported: export them first with 'aws configure export-credentials --profile {0} --format env'",
                            self.name.escape_debug()
                        ),
                    )),
                }
            }
            _ => Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "the AWS profile '{}' has only one of aws_access_key_id and aws_secret_access_key: give both",
                    self.name.escape_debug()
                ),
            )),
        }
    }
}

/// Adds the settings of one section; returns whether there is such a section.
fn section(text: &str, header: &str, settings: &mut BTreeMap<String, String>) -> bool {
    let mut found = false;
    let mut within = false;
    for line in text.lines() {
        // Indented lines are nested settings (of s3, say), not of the profile itself.
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        let line = line.trim_end();
        if let Some(name) = line.strip_prefix('[') {
            let name = name.split(']').next().unwrap_or_default();
            within = name.split_whitespace().eq(header.split_whitespace());
            found |= within;
        } else if within && let Some((key, value)) = line.split_once('=') {
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An environment of these variables and files.
    pub(crate) fn environment(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Environment {
        let map = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let map: BTreeMap<String, String> = pairs.collect();
            Box::new(move |key: &str| map.get(key).cloned())
        };
        Environment {
            variable: map(variables),
            file: map(files),
        }
    }

    const FILES: &[(&str, &str)] = &[
        (
            "/h/.aws/config",
            "[default]\nregion = eu-west-1\ns3 =\n  region = no\n[profile  dev]\nregion=x\nendpoint_url = http://h:1\n[profile sso]\nsso_session = s\n",
        ),
        (
            "/h/.aws/credentials",
            "# c\n[default]\naws_access_key_id = A\naws_secret_access_key = b=c\n\n[dev]\naws_access_key_id=D\naws_secret_access_key=E\naws_session_token = T\n[half]\naws_access_key_id=D\n",
        ),
    ];

    #[test]
    fn reads_both_files_of_the_profile() {
        let here = environment(&[("HOME", "/h")], FILES);
        let profile = Profile::load(None, &here).unwrap();
        let credential = profile.credential().unwrap().unwrap();
        assert_eq!(
            (credential.key_id.as_str(), credential.secret_key.as_str()),
            ("A", "b=c")
        );
        assert_eq!(profile.get("region").as_deref(), Some("eu-west-1"));
        let here = environment(&[("HOME", "/h"), ("AWS_PROFILE", "dev")], FILES);
        let profile = Profile::load(None, &here).unwrap();
        assert_eq!(
            profile.credential().unwrap().unwrap().token.as_deref(),
            Some("T")
        );
        assert_eq!(profile.get("endpoint_url").as_deref(), Some("http://h:1"));
        let nothing = Profile::load(None, &environment(&[], &[])).unwrap();
        assert!(nothing.credential().unwrap().is_none());
    }

    #[test]
    fn what_a_profile_lacks_is_said() {
        let here = environment(&[("HOME", "/h")], FILES);
        let error = |name| match Profile::load(Some(name), &here) {
            Err(error) => error,
            Ok(profile) => profile.credential().unwrap_err(),
        };
        assert!(error("nobody").message.contains("'nobody'"));
        assert!(error("half").message.contains("only one of"));
        assert!(
            error("sso")
                .message
                .contains("export-credentials --profile sso")
        );
    }
}

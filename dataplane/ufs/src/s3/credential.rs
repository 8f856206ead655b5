//! Where the keys come from, in this order: the environment, the AWS files, web identity, pod or
//! task identity, the machine's own identity. The last three are object_store's work.

use super::profile::Profile;
use crate::{Error, Result, config::Environment, config::Options};
use forebay_types::Code;
use object_store::{
    ClientOptions, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// Longest wait for keys from an identity service.
const WAIT: Duration = Duration::from_secs(8);

const REMEDY: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or fill ~/.aws/credentials (AWS_PROFILE names the section), or mount with the option anonymous=true if the bucket is public";

/// A source of keys. No Debug: it may hold secrets.
pub(crate) enum Source {
    /// Requests are not signed.
    Anonymous,
    /// These, as long as the process lives.
    Fixed(Arc<AwsCredential>),
    /// Short-lived ones.
    Identity(AwsCredentialProvider),
}

impl Source {
    pub(crate) fn find(
        options: &Options,
        profile: &Profile,
        region: &str,
        environment: &Environment,
    ) -> Result<Source> {
        if options.anonymous {
            return Ok(Source::Anonymous);
        }
        let variable = |name| environment.variable(name);
        // A profile that is named in the options wins over the environment.
        if options.profile.is_none() {
            match (
                variable("AWS_ACCESS_KEY_ID"),
                variable("AWS_SECRET_ACCESS_KEY"),
            ) {
                (Some(key_id), Some(secret_key)) => {
                    let token = variable("AWS_SESSION_TOKEN");
                    return Ok(Source::Fixed(
                        AwsCredential {
                            key_id,
                            secret_key,
                            token,
                        }
                        .into(),
                    ));
                }
                (None, None) => {}
                _ => {
                    return Err(Error::new(
                        Code::InvalidArgument,
                        "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: set both or none",
                    ));
                }
            }
        }
        if let Some(credential) = profile.credential()? {
            return Ok(Source::Fixed(credential.into()));
        }
        identity(region, environment)
    }

    /// The keys to sign with now; `None` if requests go out unsigned.
    pub(crate) async fn get(&self) -> Result<Option<Arc<AwsCredential>>> {
        let provider = match self {
            Source::Anonymous => return Ok(None),
            Source::Fixed(credential) => return Ok(Some(credential.clone())),
            Source::Identity(provider) => provider,
        };
        match timeout(WAIT, provider.get_credential()).await {
            Ok(Ok(credential)) => Ok(Some(credential)),
            Ok(Err(error)) => Err(Error::caused(
                Code::PermissionDenied,
                format!("no credentials for S3, and the identity service gives none: {REMEDY}"),
                error,
            )),
            Err(_) => Err(Error::new(
                Code::PermissionDenied,
                format!("no credentials for S3, and no identity service answers: {REMEDY}"),
            )),
        }
    }
}

fn identity(region: &str, environment: &Environment) -> Result<Source> {
    use AmazonS3ConfigKey as Key;
    // What object_store reads for identity, and no more: a stray AWS_ENDPOINT is none of it.
    const KEYS: [(&str, Key); 8] = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", Key::WebIdentityTokenFile),
        ("AWS_ROLE_ARN", Key::RoleArn),
        ("AWS_ROLE_SESSION_NAME", Key::RoleSessionName),
        ("AWS_ENDPOINT_URL_STS", Key::StsEndpoint),
        (
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            Key::ContainerCredentialsRelativeUri,
        ),
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            Key::ContainerCredentialsFullUri,
        ),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            Key::ContainerAuthorizationTokenFile,
        ),
        ("AWS_METADATA_ENDPOINT", Key::MetadataEndpoint),
    ];
    // Short: a machine without an identity service must say so soon.
    let retry = RetryConfig {
        max_retries: 2,
        retry_timeout: Duration::from_secs(5),
        ..RetryConfig::default()
    };
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(2))
        .with_timeout(Duration::from_secs(5));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name("identity")
        .with_region(region)
        .with_retry(retry)
        .with_client_options(client);
    let mut named = false;
    for (name, key) in KEYS {
        if let Some(value) = environment.variable(name) {
            named = true;
            builder = builder.with_config(key, value);
        }
    }
    let disabled = environment.variable("AWS_EC2_METADATA_DISABLED");
    if !named && disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(Error::new(
            Code::PermissionDenied,
            format!("no credentials for S3: {REMEDY}"),
        ));
    }
    let store = builder.build().map_err(|e| {
        Error::caused(
            Code::InvalidArgument,
            "cannot use the workload identity of this process",
            e,
        )
    })?;
    Ok(Source::Identity(store.credentials().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{s3::profile::tests::environment, uri::Scheme};

    fn find(variables: &[(&str, &str)], options: &[(&str, &str)]) -> Result<Source> {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let options = Options::parse(Scheme::S3, &options).unwrap();
        let environment = environment(variables, &[]);
        let profile = Profile::load(options.profile.as_deref(), &environment)?;
        Source::find(&options, &profile, "us-east-1", &environment)
    }

    #[tokio::test]
    async fn nothing_configured_says_how_to_give_credentials() {
        let error = find(&[("AWS_EC2_METADATA_DISABLED", "true")], &[])
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::PermissionDenied);
        for word in ["AWS_ACCESS_KEY_ID", "~/.aws/credentials", "anonymous=true"] {
            assert!(error.message.contains(word), "{error}");
        }
    }

    #[tokio::test]
    async fn a_machine_without_an_identity_service_says_so_soon() {
        crate::config::provider();
        let begun = std::time::Instant::now();
        // Nobody listens on port 1.
        let source = find(&[("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")], &[]).unwrap();
        let error = source.get().await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied);
        assert!(error.message.contains("anonymous=true"), "{error}");
        assert!(begun.elapsed() < WAIT + Duration::from_secs(2));
    }

    #[tokio::test]
    async fn anonymous_wins_and_half_a_key_is_refused() {
        let half = [("AWS_ACCESS_KEY_ID", "A")];
        assert!(
            find(&half, &[("anonymous", "true")])
                .unwrap()
                .get()
                .await
                .unwrap()
                .is_none()
        );
        assert!(
            find(&half, &[])
                .err()
                .unwrap()
                .message
                .contains("only one of")
        );
        let whole = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "s")];
        assert_eq!(
            find(&whole, &[])
                .unwrap()
                .get()
                .await
                .unwrap()
                .unwrap()
                .key_id,
            "A"
        );
    }
}

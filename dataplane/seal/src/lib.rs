//! Credentials of under stores on their way to masters and workers.
//!
//! Whoever has the key of a cluster seals them; the masters keep them sealed in their journal, their tables and
//! their backups, send them sealed to the workers, and both open them only to talk to the store.
//! AES-256-GCM (NIST SP 800-38D) with a random nonce in front, bound to the path of the mount: sealed
//! credentials that are copied to another mount do not open there.

use forebay_types::{Credentials, Sealed};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use std::{fmt, fs, path::Path};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// The key of a cluster.
pub struct SealKey(LessSafeKey);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

/// What was sealed cannot be opened, or nothing can be sealed; one line, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SealError(String);

/// Fresh bytes for a key.
pub fn generate() -> Result<[u8; KEY_LEN], SealError> {
    let mut key = [0; KEY_LEN];
    fill(&mut key)?;
    Ok(key)
}

fn fill(bytes: &mut [u8]) -> Result<(), SealError> {
    let filled = SystemRandom::new().fill(bytes);
    filled.map_err(|_| SealError("the system gives no random numbers".into()))
}

impl SealKey {
    /// The key of these bytes, [`KEY_LEN`] of them.
    pub fn new(bytes: &[u8]) -> Result<SealKey, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes);
        let key =
            key.map_err(|_| SealError(format!("a key has {KEY_LEN} bytes, not {}", bytes.len())))?;
        Ok(SealKey(LessSafeKey::new(key)))
    }

    /// The key that a file holds.
    pub fn read(file: &Path) -> Result<SealKey, SealError> {
        let why =
            |error: &dyn fmt::Display| SealError(format!("seal_key {}: {error}", file.display()));
        let bytes = fs::read(file).map_err(|error| why(&error))?;
        SealKey::new(&bytes).map_err(|error| why(&error))
    }

    /// Seals credentials for the mount at `path`.
    pub fn seal(&self, path: &str, credentials: &Credentials) -> Result<Sealed, SealError> {
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce)?;
        let failed = |_| SealError("too much to seal".into());
        let mut text = postcard::to_allocvec(credentials).map_err(|e| SealError(e.to_string()))?;
        let tag = self.0.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(path),
            &mut text,
        );
        let sealed = [&nonce[..], &text, tag.map_err(failed)?.as_ref()].concat();
        Ok(Sealed(sealed.into()))
    }

    /// Opens the credentials of the mount at `path`.
    pub fn open(&self, path: &str, sealed: &Sealed) -> Result<Credentials, SealError> {
        let other = || {
            SealError(format!(
                "the credentials of {path} were sealed with another key or for another mount: seal them again"
            ))
        };
        let (nonce, text) = sealed.0.split_at_checked(NONCE_LEN).ok_or_else(other)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| other())?;
        let mut text = text.to_vec();
        let open = self.0.open_in_place(nonce, Aad::from(path), &mut text);
        postcard::from_bytes(open.map_err(|_| other())?).map_err(|_| other())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        let named = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ];
        Credentials::new(
            named
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
        )
    }

    #[test]
    fn only_the_key_and_the_path_open_what_was_sealed() {
        let key = SealKey::new(&generate().unwrap()).unwrap();
        let sealed = key.seal("/a/b", &credentials()).unwrap();
        assert_eq!(key.open("/a/b", &sealed), Ok(credentials()));
        assert_ne!(key.seal("/a/b", &credentials()), Ok(sealed.clone()));
        assert!(!sealed.0.windows(6).any(|bytes| bytes == b"secret"));

        let other = SealKey::new(&generate().unwrap()).unwrap();
        let mut spoiled = sealed.0.to_vec();
        *spoiled.last_mut().unwrap() ^= 1;
        for refused in [
            key.open("/a/c", &sealed),
            other.open("/a/b", &sealed),
            key.open("/a/b", &Sealed(spoiled.into())),
            key.open("/a/b", &Sealed("short".into())),
        ] {
            assert!(refused.unwrap_err().to_string().contains("seal them again"));
        }
    }

    #[test]
    fn a_bad_key_is_told_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let said = || SealKey::read(&file).unwrap_err().to_string();
        assert!(said().contains("No such file"));
        fs::write(&file, "short").unwrap();
        assert!(said().ends_with("a key has 32 bytes, not 5"));
    }
}

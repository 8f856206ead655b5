//! The server in a process of its own, so that what is measured and what serves it are apart.
//!
//! The child is the same executable, started again (see [`serve_if_asked`]). It is told what to do by lines of
//! JSON on its standard input, answers each with a line on standard output, and ends when its
//! input does: it never outlives its parent.

use super::{Backend, Credentials, Directory, Memory, S3Server, Stats, synthetic};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write, stdin, stdout},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

/// The first argument that makes an executable a server.
const SERVE: &str = "serve-s3";

/// What children want requests to be signed with; they listen on loopback only.
const ACCESS_KEY: &str = "forebay";
const SECRET_KEY: &str = "throw-away";

/// Where the child keeps objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Storage {
    /// In memory, in empty buckets of these names.
    Memory(Vec<String>),
    /// In directories: bucket name and path.
    Directories(BTreeMap<String, PathBuf>),
}

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Synthetic objects `KEY00000000`, `KEY00000001` …, in memory.
    Fill {
        bucket: String,
        key: String,
        count: u64,
        /// Objects to a directory; 0: all in one.
        fan: u64,
        size: u64,
    },
    Delete {
        bucket: String,
        prefix: String,
    },
    Stats,
}

/// A server in another process; it ends when this is dropped.
#[derive(Debug)]
pub struct S3Child {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    /// What its clients must sign with.
    pub credentials: Credentials,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl S3Child {
    /// Starts this executable again as a server. Its `main` must call [`serve_if_asked`] first.
    pub fn start(storage: &Storage) -> anyhow::Result<S3Child> {
        let credentials = Credentials {
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
        };
        let executable = env::current_exe().context("cannot find this executable")?;
        let mut child = Command::new(executable)
            .arg(SERVE)
            .arg(serde_json::to_string(storage)?)
            .env("AWS_ACCESS_KEY_ID", &credentials.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the parent; the child ends with its input.
            .process_group(0)
            .spawn()
            .context("cannot start the S3 server")?;
        let input = child.stdin.take();
        let output = child
            .stdout
            .take()
            .context("no output from the S3 server")?;
        let mut server = S3Child {
            endpoint: String::new(),
            credentials,
            child,
            input,
            output: BufReader::new(output),
        };
        server.endpoint = server.answer()?;
        Ok(server)
    }

    /// Puts the children's credentials into this process's own environment, by starting it again
    /// in place: clients in this process then sign with them. To be called first in `main`.
    pub fn borrow_credentials() -> anyhow::Result<()> {
        if env::var("AWS_ACCESS_KEY_ID").as_deref() == Ok(ACCESS_KEY) {
            return Ok(());
        }
        let error = Command::new(env::current_exe()?)
            .args(env::args_os().skip(1))
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env_remove("AWS_SESSION_TOKEN")
            .exec();
        Err(error).context("cannot start this executable again")
    }

    /// Makes `count` objects of `size` bytes of noise in memory, in the order of their keys
    /// `KEY00000000`, `KEY00000001` …; with `fan`, so many to a directory `KEY00000/` of their own.
    pub fn fill(
        &mut self,
        bucket: &str,
        key: &str,
        count: u64,
        fan: u64,
        size: u64,
    ) -> anyhow::Result<()> {
        self.ask(&Request::Fill {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            count,
            fan,
            size,
        })
    }

    /// Removes every object whose key begins with `prefix`, in memory.
    pub fn delete(&mut self, bucket: &str, prefix: &str) -> anyhow::Result<()> {
        self.ask(&Request::Delete {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// What it was asked for so far.
    pub fn stats(&mut self) -> anyhow::Result<Stats> {
        self.ask(&Request::Stats)
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> anyhow::Result<T> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let input = self.input.as_mut().context("the S3 server was stopped")?;
        input
            .write_all(line.as_bytes())
            .context("the S3 server is gone")?;
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("the S3 server ended without an answer");
        }
        let answer: Result<T, String> = serde_json::from_str(&line)?;
        answer.map_err(|message| anyhow::anyhow!("the S3 server says: {message}"))
    }
}

impl Drop for S3Child {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// The key of object `index` of a filled prefix.
pub(super) fn filled_key(key: &str, fan: u64, index: u64) -> String {
    match index.checked_div(fan) {
        Some(directory) => format!("{key}{directory:05}/{index:08}"),
        None => format!("{key}{index:08}"),
    }
}

/// Serves and returns true if this process was started by [`S3Child::start`]; else returns false
/// at once. To be called before anything else in `main`.
pub fn serve_if_asked() -> anyhow::Result<bool> {
    let mut args = env::args().skip(1);
    if args.next().as_deref() != Some(SERVE) {
        return Ok(false);
    }
    let storage = args
        .next()
        .context("serve-s3 needs a description of the storage")?;
    let mut memory = None;
    let backend: Arc<dyn Backend> = match serde_json::from_str(&storage)? {
        Storage::Memory(buckets) => {
            let names: Vec<&str> = buckets.iter().map(String::as_str).collect();
            let objects = Arc::new(Memory::new(&names));
            memory = Some(Arc::clone(&objects));
            objects
        }
        Storage::Directories(buckets) => Arc::new(Directory::new(buckets)),
    };
    let credentials = Credentials {
        access_key: env::var("AWS_ACCESS_KEY_ID")?,
        secret_key: env::var("AWS_SECRET_ACCESS_KEY")?,
    };
    let server = S3Server::start(backend, Some(credentials))?;
    say(&Ok(&server.endpoint))?;
    for line in stdin().lines() {
        match serde_json::from_str(&line?)? {
            Request::Stats => say(&Ok(server.stats()))?,
            request => say(&change(memory.as_deref(), &request))?,
        }
    }
    Ok(true)
}

fn say<T: Serialize>(answer: &Result<T, String>) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    let mut out = stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

fn change(memory: Option<&Memory>, request: &Request) -> Result<(), String> {
    let memory = memory.ok_or("these objects are files; nothing here can change them")?;
    match request {
        Request::Fill {
            bucket,
            key,
            count,
            fan,
            size,
        } => {
            for index in 0..*count {
                let name = filled_key(key, *fan, index);
                memory
                    .put(bucket, &name, synthetic(index, *size))
                    .map_err(|missing| missing.to_string())?;
            }
        }
        Request::Delete { bucket, prefix } => {
            memory
                .delete_all(bucket, prefix)
                .map_err(|missing| missing.to_string())?;
        }
        Request::Stats => {}
    }
    Ok(())
}

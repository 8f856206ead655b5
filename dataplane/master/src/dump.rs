//! What a master's journal says, for people and for programs.

use anyhow::{Context, ensure};
use forebay_consensus::journal::{Content, Record, records};
use forebay_kv_rocksdb::{Options, RocksKv};
use forebay_meta::Command;
use forebay_service::data_dir::DataDir;
use serde_json::{Value, json};
use std::path::Path;

/// An entry of the journal.
#[derive(Debug)]
pub struct Dumped {
    /// Its place.
    pub index: u64,
    /// The term of the leader that made it.
    pub term: u64,
    content: Content,
    commands: Vec<Command>,
}

/// Hands the entries from `from` on to `tell`, in order, until that returns false. Refuses while a
/// master has the directory open.
pub fn dump(
    data_dir: &Path,
    from: u64,
    mut tell: impl FnMut(&Dumped) -> bool,
) -> anyhow::Result<()> {
    let journal = data_dir.join("journal");
    ensure!(
        journal.is_dir(),
        "{} has no journal: give the data directory of a master",
        data_dir.display()
    );
    let _data_dir = DataDir::open(data_dir, "master")?;
    let kv = RocksKv::open(&journal, &Options::default())
        .with_context(|| format!("cannot open the journal in {}", journal.display()))?;
    for record in records(&*kv, from) {
        if !tell(&read(record?)?) {
            break;
        }
    }
    Ok(())
}

fn read(record: Record) -> anyhow::Result<Dumped> {
    let Record {
        index,
        term,
        content,
    } = record;
    let commands = match &content {
        Content::Command(bytes) => postcard::from_bytes(bytes)
            .with_context(|| format!("entry {index} is damaged, or of a newer version"))?,
        _ => Vec::new(),
    };
    Ok(Dumped {
        index,
        term,
        content,
        commands,
    })
}

impl Dumped {
    /// In words.
    pub fn describe(&self) -> String {
        let command = |command: &Command| {
            let request = command.request.map_or_else(String::new, |id| {
                format!(" [session {} request {}]", id.session.0, id.sequence)
            });
            format!("{:?}{request}", command.change)
        };
        match &self.content {
            Content::Empty => "a leader begins its term".to_owned(),
            Content::Membership(change) => format!("members: {change}"),
            Content::Command(_) => {
                let told: Vec<_> = self.commands.iter().map(command).collect();
                told.join("; ")
            }
        }
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let content = match &self.content {
            Content::Empty => json!({ "kind": "empty" }),
            Content::Membership(change) => json!({ "kind": "membership", "change": change }),
            Content::Command(_) => json!({ "kind": "commands", "commands": self.commands }),
        };
        json!({ "index": self.index, "term": self.term, "content": content })
    }
}

//! `make demo`: what Forebay does, on this machine, without a bucket.

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use forebay_e2e::{
    disk::Scratch,
    interrupt::clean_up_on_signals,
    process::{Forebay, Local, forebay},
    s3::{S3Child, Stats, Storage, serve_if_asked, synthetic},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};
use walkdir::WalkDir;

/// Most small files that are read.
const FILES: usize = 20_000;
/// Bytes of the large file.
const LARGE: u64 = 1 << 30;
/// Readers of small files at a time, as a data loader would have them.
const READERS: usize = 4;
const LARGE_FILE: &str = "large.bin";

/// One way to read everything.
struct Pass {
    name: &'static str,
    large: f64,
    small: f64,
    files: f64,
    asked: Stats,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // One line, whatever RUST_BACKTRACE says.
            eprintln!("forebay-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    if serve_if_asked()? {
        return Ok(ExitCode::SUCCESS);
    }
    clean_up_on_signals()?;
    let sources = registry()?;
    let small = small_files(&sources)?;
    let small_bytes = small.iter().map(|(_, size)| size).sum::<u64>();
    let scratch = Scratch::new("demo")?;
    scratch.need(2 * LARGE + 2 * small_bytes + (1 << 30))?;
    println!(
        "A throw-away S3 server shows {} source files ({} MiB) of {}\nas the bucket 'sources', and one file of {} MiB as the bucket 'large'.\n",
        small.len(),
        small_bytes >> 20,
        sources.display(),
        LARGE >> 20
    );
    let large = scratch.make("large")?;
    make_large(&large.join(LARGE_FILE))?;
    let mut server = S3Child::start(&Storage::Directories(BTreeMap::from([
        ("sources".to_owned(), sources.clone()),
        ("large".to_owned(), large.clone()),
    ])))?;
    let mount_point = scratch.make("mnt")?;
    let local = Local::start(
        Forebay::new("local")?
            .s3(&server.endpoint, Some(&server.credentials))
            .arg("--data-dir")
            .arg(scratch.make("data")?)
            .arg("--tier")
            .arg(format!(
                "SSD={}:{}",
                scratch.make("cache")?.display(),
                2 * (LARGE + small_bytes) + (64 << 20)
            )),
        &mount_point,
        ["/sources=s3://sources", "/large=s3://large"],
    )?;
    println!(
        "$ forebay local {0} /sources=s3://sources /large=s3://large --option endpoint={1}\nready {0}\n",
        mount_point.display(),
        server.endpoint
    );

    let mounted = [mount_point.join("sources"), mount_point.join("large")];
    let natively = [sources, large];
    let mut passes = Vec::new();
    for (name, [sources, large]) in [
        ("cold", &mounted),
        ("warm", &mounted),
        ("native", &natively),
    ] {
        let before = server.stats()?;
        let file = read_large(name, &large.join(LARGE_FILE))?;
        let (mib, files) = read_small(name, sources, &small)?;
        passes.push(Pass {
            name,
            large: file,
            small: mib,
            files,
            asked: server.stats()? - before,
        });
    }
    print_speeds(&passes);
    print_savings(&passes, &local)?;
    print_next();
    let status = local.stop()?;
    anyhow::ensure!(status.success(), "forebay local ended with {status}");
    Ok(ExitCode::SUCCESS)
}

/// The sources of the cargo registry.
fn registry() -> anyhow::Result<PathBuf> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME").context("no HOME")?).join(".cargo"),
    };
    let sources = home.join("registry/src");
    anyhow::ensure!(
        sources.is_dir(),
        "no sources at {}: run 'cargo fetch' first, or set CARGO_HOME",
        sources.display()
    );
    Ok(sources)
}

/// Some files below `root`: path relative to it, and size.
fn small_files(root: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry?;
        // What is not UTF-8 is no key of a bucket.
        if entry.file_type().is_file() && entry.path().to_str().is_some() {
            let path = entry.path().strip_prefix(root)?.to_owned();
            files.push((path, entry.metadata()?.len()));
        }
        if files.len() == FILES {
            break;
        }
    }
    Ok(files)
}

fn make_large(path: &Path) -> anyhow::Result<()> {
    let bar = bar("making the large file", LARGE >> 20, "MiB");
    let content = synthetic(1, LARGE);
    let mut file = File::create(path)?;
    let mut offset = 0;
    while offset < LARGE {
        let piece = content.piece(offset, 1 << 20)?;
        file.write_all(&piece)?;
        offset += piece.len() as u64;
        bar.set_position(offset >> 20);
    }
    // Its writing to the disk is not to be part of what is measured.
    file.sync_all()?;
    bar.finish_and_clear();
    Ok(())
}

/// A progress bar on a terminal, one line elsewhere.
fn bar(what: &str, length: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if bar.is_hidden() {
        eprintln!("{what}");
        return bar;
    }
    let style = format!("{{msg:28}} {{bar:40}} {{pos}}/{{len}} {unit}, {{eta}} left");
    bar.set_style(ProgressStyle::with_template(&style).unwrap_or(ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

/// MiB/s of one file from end to end.
fn read_large(pass: &str, path: &Path) -> anyhow::Result<f64> {
    let bar = bar(&format!("{pass}: the large file"), LARGE >> 20, "MiB");
    let begun = Instant::now();
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        bar.set_position(bytes >> 20);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    bar.finish_and_clear();
    anyhow::ensure!(bytes == LARGE, "{} has {bytes} bytes", path.display());
    Ok((bytes >> 20) as f64 / elapsed)
}

/// MiB/s and files/s of many small files by several readers.
fn read_small(pass: &str, root: &Path, files: &[(PathBuf, u64)]) -> anyhow::Result<(f64, f64)> {
    let bar = bar(
        &format!("{pass}: {} small files", files.len()),
        files.len() as u64,
        "files",
    );
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let bytes = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<u64> {
                    let mut buffer = Vec::new();
                    let mut bytes = 0;
                    while let Some((path, size)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        buffer.clear();
                        let path = root.join(path);
                        File::open(&path)
                            .and_then(|mut file| file.read_to_end(&mut buffer))
                            .with_context(|| format!("cannot read {}", path.display()))?;
                        anyhow::ensure!(
                            buffer.len() as u64 == *size,
                            "{} has {} bytes",
                            path.display(),
                            buffer.len()
                        );
                        bytes += size;
                        bar.inc(1);
                    }
                    Ok(bytes)
                })
            })
            .collect();
        let mut bytes = 0;
        for reader in readers {
            bytes += reader.join().expect("a reader does not panic")?;
        }
        anyhow::Ok(bytes)
    })?;
    let elapsed = begun.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let mib = bytes as f64 / f64::from(1 << 20);
    Ok((mib / elapsed, files.len() as f64 / elapsed))
}

fn print_speeds(passes: &[Pass]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "COLD", "WARM", "NATIVE"]);
    let mut row = |what: &str, figure: &dyn Fn(&Pass) -> String| {
        let cells = passes.iter().map(figure);
        table.add_row([what.to_owned()].into_iter().chain(cells));
    };
    row("large file, MiB/s", &|pass| format!("{:.0}", pass.large));
    row("small files, MiB/s", &|pass| format!("{:.0}", pass.small));
    row("small files, files/s", &|pass| format!("{:.0}", pass.files));
    row("requests to the bucket", &|pass| match pass.name {
        "native" => "–".to_owned(),
        _ => pass.asked.requests().to_string(),
    });
    row("MiB from the bucket", &|pass| match pass.name {
        "native" => "–".to_owned(),
        _ => (pass.asked.bytes >> 20).to_string(),
    });
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 3));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
    println!(
        "\ncold: the first read, from the bucket; warm: again, from the cache; native: the same\nfiles without Forebay, from the disk that the bucket is on."
    );
}

fn print_savings(passes: &[Pass], local: &Local) -> anyhow::Result<()> {
    let [cold, warm, ..] = passes else {
        return Ok(());
    };
    println!(
        "\nspared the bucket by the second read: {} requests, {} MiB",
        cold.asked.requests().saturating_sub(warm.asked.requests()),
        cold.asked.bytes.saturating_sub(warm.asked.bytes) >> 20
    );
    // Workers report now and then: wait a moment for the last word.
    let mut ratio = None;
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let report = Forebay::new("report")?
            .arg("--json")
            .arg(&local.mount_point)
            .output()?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        let latest = report["total"]["hit_ratio"].as_f64();
        if latest.is_some() && latest == ratio {
            break;
        }
        ratio = latest;
        thread::sleep(Duration::from_millis(500));
    }
    match ratio {
        Some(ratio) => println!(
            "hit ratio over both reads: {:.1} % of the opens found the file whole in the cache",
            100.0 * ratio
        ),
        None => println!("hit ratio: 'forebay report' has none yet"),
    }
    Ok(())
}

fn print_next() {
    let command =
        forebay().map_or_else(|_| "forebay".to_owned(), |path| path.display().to_string());
    println!(
        "\nThe same with a bucket of your own:

    export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...    (or ~/.aws, or the machine's role)
    mkdir -p ~/bucket
    {command} local ~/bucket s3://YOUR-BUCKET --option region=YOUR-REGION

For a store other than AWS add --option endpoint=https://HOST; for a public bucket
--option anonymous=true. Ctrl-C unmounts; the cache is found again at the next start."
    );
}

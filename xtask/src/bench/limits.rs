// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The limit beside it: what the machine takes for the parts of a pull, each alone, and for a start that does only what it must; and what
//! stos says of its own stages.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use stos_sys::sha256::{INITIAL, Sha256Unit, State};

use super::bare_pull::{self, Wanted};
use super::bare_start::{self, BareStart};
use super::book::{Book, Unit};
use super::clock;
use super::containers::TRUE;
use super::disk;
use super::engines::{Act, Engine};
use super::images::{self, Descriptor};
use super::pulls::IMAGES;
use super::stand::{Stand, commands, perform};

/// The group of the rows.
pub const GROUP: &str = "limits";
/// The group of the rows of what stos says of its stages.
pub const STAGES: &str = "stages";
/// The group of the rows of who had the processors during a pull.
pub const PROCESSORS: &str = "processors";
/// The row of the bare start.
pub const START: &str = "start of a container of deb:12";
/// The bytes that are read, hashed and written at a time.
pub const BUFFER: usize = 1 << 18;
/// How many layers stos pulls side by side at most.
const STOS_JOBS: usize = 8;
/// The kernel is told to write after so many.
pub const WRITE_BEHIND: u64 = 16 << 20;

/// All parts at once, and all but one, as the rows call them.
pub const AT_ONCE: [(&str, Part); 2] = [("all at once", Part::AtOnce), ("all but inflating", Part::Uninflated)];

/// What the parts of a pull are called, in the order of the table.
pub const PARTS: [(&str, Part); 4] =
    [("download", Part::Download), ("inflate", Part::Inflate), ("both hashes", Part::Hash), ("write", Part::Write)];

/// A part of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Receive the blobs from the registry.
    Download,
    /// Inflate the blobs, which are in the page cache.
    Inflate,
    /// SHA-256 of as many bytes as the blobs have, and of as many as the layers have.
    Hash,
    /// Write as many bytes as the layers have, durably.
    Write,
    /// All of that, at once.
    AtOnce,
    /// The same, but the blobs are not inflated: the layers are as many bytes that are made of nothing.
    Uninflated,
}

/// What a process does that does one part.
#[derive(Debug, Serialize, Deserialize)]
struct Work {
    part: Part,
    registry: String,
    repository: String,
    layers: Vec<Layer>,
    place: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Layer {
    digest: String,
    media_type: String,
    size: u64,
    tar_size: u64,
}

/// Measures the limits of pulls and of a start, in turn with stos.
pub fn measure(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let cores = thread::available_parallelism()?.get();
    book.facts.insert("cores".into(), cores.to_string());
    // Of an image that is there others have layers: a pull would not be cold.
    stand.clear();
    for (image, what) in IMAGES {
        if !stand.settings.is_quick || image == "deb:12" {
            pull_limits(stand, book, image, what)?;
        }
    }
    start_limit(stand, book)
}

fn pull_limits(stand: &Stand, book: &mut Book, image: &str, what: &str) -> anyhow::Result<()> {
    let place = stand.settings.disk.join("limits");
    let layers = images::manifest(image)?.layers.iter().map(layer).collect::<anyhow::Result<Vec<_>>>()?;
    let repository = image.split(':').next().unwrap_or_default().to_owned();
    let stos = stand.engine("stos").context("stos itself")?;
    let reference = stand.image(image);
    for _ in 0..stand.settings.rounds {
        for (name, part) in PARTS.into_iter().chain(AT_ONCE) {
            let work = Work {
                part,
                registry: stand.settings.registry.clone(),
                repository: repository.clone(),
                layers: layers.clone(),
                place: place.clone(),
            };
            clear(&place)?;
            let file = place.join("work.json");
            fs::write(&file, serde_json::to_vec(&work)?)?;
            disk::write_back();
            let mut command = Command::new(&stand.settings.measurer);
            command.args(["bench", "--stage"]).arg(&file);
            let (served, before) = (clock::cpu_of(stand.settings.registry_pid)?, clock::Machine::now()?);
            let mut sample = clock::time(&mut [command])?;
            // Whoever works for a part has the same processors: the registry, and for what is written the kernel's own threads.
            match part {
                Part::Write | Part::AtOnce | Part::Uninflated => sample.cpu = clock::Machine::now()?.since(before).busy,
                _ => sample.cpu += clock::cpu_of(stand.settings.registry_pid)?.saturating_sub(served),
            }
            book.add_time(GROUP, what, name, sample.wall);
            book.add_time(GROUP, &format!("{what}, CPU"), name, sample.cpu);
        }
        clear(&place)?;
        stand.drop_image(stos, &reference)?;
        stand.chill(stos, image)?;
        let log = stand.settings.disk.join("stages.log");
        let (served, before) = (clock::cpu_of(stand.settings.registry_pid)?, clock::Machine::now()?);
        let sample = logged(stos, Act::Pull(&reference), &log)?;
        let machine = clock::Machine::now()?.since(before);
        let served = clock::cpu_of(stand.settings.registry_pid)?.saturating_sub(served);
        book.add_time(GROUP, what, "stos", sample.wall);
        book.add_time(GROUP, &format!("{what}, CPU"), "stos", sample.cpu);
        let rest = machine.busy.saturating_sub(sample.cpu + served);
        for (by, time) in [
            ("stos", sample.cpu),
            ("the registry", served),
            ("the kernel and others", rest),
            ("other machines", machine.stolen),
            ("nobody", machine.idle),
        ] {
            book.add_time(PROCESSORS, &format!("pull of {what}"), by, time);
        }
        add_stages(book, &format!("pull of {what}"), &log, sample)?;
        perform(stos, Act::RemoveImage(&reference))?;
    }
    fs::remove_dir_all(place).map_err(Into::into)
}

/// Makes `place` an empty directory: what one has written is none of the next one's.
fn clear(place: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| place.display().to_string())
        }
        _ => fs::create_dir_all(place).map_err(Into::into),
    }
}

fn layer(descriptor: &Descriptor) -> anyhow::Result<Layer> {
    let mut tar = images::open_layer(&images::blob(&descriptor.digest), &descriptor.media_type)?;
    let tar_size = io::copy(&mut tar, &mut io::sink())?;
    let Descriptor { digest, media_type, size } = descriptor.clone();
    Ok(Layer { digest, media_type, size, tar_size })
}

/// Does what the file says, layers side by side as far as there are processors; one more where each also waits for the network.
pub fn stage(file: &Path) -> anyhow::Result<()> {
    let work: Work = serde_json::from_slice(&fs::read(file).with_context(|| file.display().to_string())?)?;
    let next = AtomicUsize::new(0);
    let is_single = PARTS.iter().any(|(_, part)| *part == work.part);
    let processors = thread::available_parallelism()?.get();
    let threads = if is_single { processors } else { (processors + 1).min(STOS_JOBS) }.min(work.layers.len());
    thread::scope(|scope| {
        let all = || -> anyhow::Result<()> {
            while let Some(layer) = work.layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                do_part(&work, layer)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(all)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })
}

fn do_part(work: &Work, layer: &Layer) -> anyhow::Result<()> {
    match work.part {
        Part::Download => {
            let received = drain(&mut download(&work.registry, &work.repository, &layer.digest)?)?;
            anyhow::ensure!(received == layer.size, "{}: {received} bytes came of {}", layer.digest, layer.size);
        }
        Part::Inflate => {
            let mut tar = images::open_layer(&images::blob(&layer.digest), &layer.media_type)?;
            let inflated = drain(&mut tar)?;
            anyhow::ensure!(inflated == layer.tar_size, "{}: {inflated} bytes of {}", layer.digest, layer.tar_size);
        }
        Part::Hash => hash(layer.size, layer.tar_size),
        Part::Write => write(&work.place.join(&layer.digest), layer.tar_size)?,
        Part::AtOnce | Part::Uninflated => {
            let blob = download(&work.registry, &work.repository, &layer.digest)?;
            let Layer { media_type, size, tar_size, .. } = layer;
            let is_made_up = work.part == Part::Uninflated;
            let wanted = Wanted { media_type, size: *size, tar_size: *tar_size, is_made_up };
            bare_pull::pull(blob, &wanted, &work.place.join(&layer.digest))?;
        }
    }
    Ok(())
}

/// Asks for a blob, and gives what comes.
fn download(registry: &str, repository: &str, digest: &str) -> anyhow::Result<impl Read + Send> {
    let mut stream = TcpStream::connect(registry)?;
    let ask = format!("GET /v2/{repository}/blobs/{digest} HTTP/1.1\r\nHost: {registry}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes())?;
    // Small: what is read at once goes past it.
    let mut answer = BufReader::with_capacity(8 << 10, stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    anyhow::ensure!(line.contains(" 200 "), "the registry said {line:?}");
    while line != "\r\n" {
        line.clear();
        anyhow::ensure!(answer.read_line(&mut line)? > 0, "the answer ends in its head");
    }
    Ok(answer)
}

fn drain(from: &mut dyn Read) -> anyhow::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

/// Hashes as many bytes of two streams. How long it takes hangs on these numbers alone.
fn hash(one: u64, other: u64) {
    let buffer = vec![7; BUFFER];
    let mut hashes = Hashes::default();
    for piece in pieces(one.min(other)) {
        hashes.add([&buffer[..piece]; 2]);
    }
    for piece in pieces(one.abs_diff(other)) {
        hashes.add([&buffer[..piece], &[]]);
    }
    hashes.finish();
}

/// SHA-256 of two streams, at once as far as both go where the processor can.
pub enum Hashes {
    /// By its instructions.
    Unit(Sha256Unit, [State; 2]),
    /// One after the other.
    Plain(Sha256),
}

impl Default for Hashes {
    fn default() -> Self {
        Sha256Unit::detect().map_or_else(|| Self::Plain(Sha256::new()), |unit| Self::Unit(unit, [INITIAL; 2]))
    }
}

impl Hashes {
    /// Hashes a piece of each, but for what is no whole block.
    pub fn add(&mut self, pieces: [&[u8]; 2]) {
        match self {
            Self::Unit(unit, [first, second]) => {
                let both = unit.compress([first, second], pieces);
                unit.compress([first], [&pieces[0][both..]]);
                unit.compress([second], [&pieces[1][both..]]);
            }
            Self::Plain(hash) => pieces.iter().for_each(|piece| hash.update(piece)),
        }
    }

    /// Keeps the compiler from leaving it all out.
    pub fn finish(self) {
        match self {
            Self::Unit(_, states) => drop(std::hint::black_box(states)),
            Self::Plain(hash) => drop(std::hint::black_box(hash.finalize())),
        }
    }
}

fn write(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let buffer = vec![7; BUFFER];
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let (mut written, mut told) = (0, 0);
    for piece in pieces(bytes) {
        file.write_all(&buffer[..piece])?;
        written += piece as u64;
        if written - told >= WRITE_BEHIND {
            begin_writing(&file, told, written)?;
            told = written;
        }
    }
    file.sync_all().map_err(Into::into)
}

/// Has the kernel begin to write the pages of a file between two places without waiting for it.
pub fn begin_writing(file: &File, from: u64, to: u64) -> anyhow::Result<()> {
    let (offset, length) = (i64::try_from(from)?, i64::try_from(to - from)?);
    posix_fadvise(file.as_fd(), offset, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(Into::into)
}

/// The lengths of the buffers that so many bytes fill.
pub fn pieces(bytes: u64) -> impl Iterator<Item = usize> {
    let whole = usize::try_from(bytes).unwrap_or(usize::MAX);
    (0..whole.div_ceil(BUFFER)).map(move |number| BUFFER.min(whole - number * BUFFER))
}

/// Starts of the same root by the bare program and by stos, and stos's creates.
fn start_limit(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let (image, stos) = (stand.image("deb:12"), stand.engine("stos").context("stos itself")?);
    let bare = BareStart::prepare(stand)?;
    stand.ensure_image(stos, &image)?;
    let log = stand.settings.disk.join("stages.log");
    for round in 0..=stand.settings.repeats() {
        let started = bare.as_ref().map(BareStart::run).transpose()?;
        let run = perform(stos, Act::Run(&image, "limited", &TRUE))?;
        // The first mounts the image.
        if round > 0 {
            if let Some(started) = started {
                book.add_time(GROUP, START, bare_start::NAME, started.wall);
            }
            book.add_time(GROUP, START, "stos", run.wall);
            let sample = logged(stos, Act::Run(&image, "limited", &TRUE), &log)?;
            add_stages(book, "run --rm of deb:12", &log, sample)?;
            let sample = logged(stos, Act::Create(&image, "limited", &TRUE), &log)?;
            add_stages(book, "create of deb:12", &log, sample)?;
            perform(stos, Act::Delete("limited"))?;
        }
    }
    Ok(())
}

/// Has stos do something and write its log, JSON, to a file.
fn logged(stos: &dyn Engine, act: Act<'_>, log: &Path) -> anyhow::Result<clock::Sample> {
    let _ = fs::remove_file(log);
    let plain = commands(stos, act)?.remove(0);
    let mut command = Command::new(plain.get_program());
    command.arg("--log").arg(log).args(["--log-format", "json"]).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    clock::time(&mut [command])
}

/// Takes what each stage has taken, and what is left of the whole.
fn add_stages(book: &mut Book, what: &str, log: &Path, sample: clock::Sample) -> anyhow::Result<()> {
    let stages = stages(&fs::read_to_string(log)?);
    let whole = sample.wall.as_secs_f64() * 1000.0;
    let rest = whole - stages.values().sum::<f64>();
    for (stage, milliseconds) in
        stages.into_iter().chain([("outside of stages".to_owned(), rest), ("all".to_owned(), whole)])
    {
        book.add(STAGES, &format!("{what}: {stage}"), "stos", Unit::Milliseconds, milliseconds);
    }
    Ok(())
}

/// The milliseconds of each stage of a log. A stage within another is counted there.
fn stages(log: &str) -> BTreeMap<String, f64> {
    let mut stages = BTreeMap::new();
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let is_within_another = line["spans"].as_array().is_some_and(|spans| spans.len() > 1);
        if let (Some(stage), Some(milliseconds), false) =
            (line["stage"].as_str(), line["ms"].as_f64(), is_within_another)
        {
            *stages.entry(stage.to_owned()).or_default() += milliseconds;
        }
    }
    stages
}

/// The least that a pull can take, in milliseconds: the slowest of its parts, or what all parts need of the processors.
pub fn of_pull(book: &Book, what: &str) -> Option<f64> {
    let cores: f64 = book.facts.get("cores")?.parse().ok()?;
    let medians = |what: &str| PARTS.iter().map(|(name, _)| book.median(GROUP, what, name)).collect::<Option<Vec<_>>>();
    let slowest = medians(what)?.into_iter().fold(0.0, f64::max);
    let processors: f64 = medians(&format!("{what}, CPU"))?.iter().sum();
    Some(slowest.max(processors / cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_from_the_log() {
        let log = r#"{"ms":1.5,"msg":"stage done","spans":[{"stage":"resolve"}],"stage":"resolve"}
{"msg":"started","container":"x"}
{"ms":2.0,"msg":"stage done","spans":[{"stage":"layers"},{"stage":"inner"}],"stage":"inner"}
{"ms":3.0,"msg":"stage done","spans":[{"stage":"layers"}],"stage":"layers"}
not json"#;
        let expected = [("layers".to_owned(), 3.0), ("resolve".to_owned(), 1.5)];
        assert_eq!(stages(log).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn bytes_come_in_pieces() {
        assert_eq!(pieces(0).count(), 0);
        assert_eq!(pieces(BUFFER as u64 + 1).collect::<Vec<_>>(), [BUFFER, 1]);
    }

    #[test]
    fn the_limit_is_the_slowest_part_or_the_processors() {
        let mut book = Book::default();
        for (name, _) in PARTS {
            book.add(GROUP, "x", name, Unit::Milliseconds, 10.0);
            book.add(GROUP, "x, CPU", name, Unit::Milliseconds, 8.0);
        }
        assert_eq!(of_pull(&book, "x"), None);
        book.facts.insert("cores".into(), "2".into());
        assert_eq!(of_pull(&book, "x"), Some(16.0));
        book.facts.insert("cores".into(), "8".into());
        assert_eq!(of_pull(&book, "x"), Some(10.0));
        assert_eq!(of_pull(&book, "y"), None);
    }

    #[test]
    fn each_part_does_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let layer = Layer { digest: "d".into(), media_type: "tar".into(), size: 3, tar_size: 40 << 20 };
        let work = |part| Work {
            part,
            registry: String::new(),
            repository: String::new(),
            layers: vec![layer.clone()],
            place: directory.path().to_owned(),
        };
        for part in [Part::Hash, Part::Write] {
            do_part(&work(part), &layer).unwrap();
        }
        assert!(do_part(&work(Part::Inflate), &layer).is_err());
        assert!(do_part(&work(Part::Download), &layer).is_err());
        let file = directory.path().join("work.json");
        fs::write(&file, serde_json::to_vec(&work(Part::Write)).unwrap()).unwrap();
        stage(&file).unwrap();
    }
}

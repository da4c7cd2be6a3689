//! What disks hold, for benchmarks of compression: it must be like what people have, or the times say nothing.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::index;
use super::support::rng::Rng;

const MIB: usize = 1 << 20;

/// A kind of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Text, noise, programs of this host and zeros, a MiB of each in turn.
    Mixed,
    /// Words, as in logs and sources.
    Text,
    /// An ext4 file system with the programs of this host, or these without a file system where none can be made.
    Files,
}

/// All of them.
pub(crate) const CONTENTS: [Content; 3] = [Content::Mixed, Content::Text, Content::Files];

impl Content {
    /// Writes a raw disk of so many MiB.
    pub(crate) fn write(self, path: &Path, mib: usize) {
        if self == Self::Files && make_file_system(path, mib) {
            return;
        }
        let mut file = File::create(path).expect("creates");
        let (mut text, mut noise, mut programs) = (Text::new(), Rng::new(5), Programs::default());
        for number in 0..mib {
            let piece = match (self, number % 4) {
                (Self::Text, _) | (Self::Mixed, 0) => text.take(MIB),
                (Self::Mixed, 1) => noise.bytes(MIB),
                (Self::Mixed, 3) => vec![0; MIB],
                (Self::Mixed | Self::Files, _) => programs.take(MIB),
            };
            file.write_all(&piece).expect("writes");
        }
    }
}

/// Lines of words, some of which are frequent.
struct Text {
    words: Vec<String>,
    rng: Rng,
    line: u64,
}

impl Text {
    fn new() -> Self {
        let mut rng = Rng::new(9);
        let mut word = |_| {
            let len = 2 + rng.below(9);
            (0..len)
                .map(|_| char::from(b"etaoinshrdlucmfwypvbgkjqxz"[index(rng.below(26).min(rng.below(26)))]))
                .collect()
        };
        let words = (0..4000).map(&mut word).collect();
        Self { words, rng, line: 0 }
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut text = String::with_capacity(len + 200);
        while text.len() < len {
            self.line += 1;
            write!(text, "{:08} {:06x}", self.line, self.rng.below(1 << 24)).expect("a String takes all");
            for _ in 0..4 + self.rng.below(12) {
                let rank = self.rng.below(4000).min(self.rng.below(4000)).min(self.rng.below(4000));
                text.push(' ');
                text.push_str(&self.words[index(rank)]);
            }
            text.push('\n');
        }
        text.truncate(len);
        text.into_bytes()
    }
}

/// The files of the host's program directories, one behind the other, again and again.
#[derive(Default)]
struct Programs {
    files: Vec<PathBuf>,
    next: usize,
    rest: Vec<u8>,
}

impl Programs {
    fn take(&mut self, len: usize) -> Vec<u8> {
        if self.files.is_empty() {
            self.files = program_files();
        }
        while self.rest.len() < len {
            let file = &self.files[self.next % self.files.len()];
            self.next += 1;
            let mut bytes = Vec::new();
            // What cannot be read is left out; this program itself always can.
            let _ = File::open(file).and_then(|mut file| file.read_to_end(&mut bytes));
            bytes.resize(bytes.len().next_multiple_of(4096), 0);
            self.rest.append(&mut bytes);
        }
        let behind = self.rest.split_off(len);
        std::mem::replace(&mut self.rest, behind)
    }
}

fn program_files() -> Vec<PathBuf> {
    let own = std::env::current_exe().expect("it runs");
    let mut files: Vec<PathBuf> = ["/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib"]
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flat_map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())))
        .filter(|path| path.is_file() && !path.is_symlink())
        .collect();
    files.sort();
    files.push(own);
    files
}

/// Whether a file system with as many of the host's programs as fit could be made.
fn make_file_system(path: &Path, mib: usize) -> bool {
    let Ok(dir) = tempfile::tempdir() else { return false };
    let mut left = (mib * MIB / 10 * 8) as u64;
    for (number, file) in program_files().iter().enumerate() {
        let len = file.metadata().map_or(u64::MAX, |meta| meta.len());
        if len < left && std::fs::copy(file, dir.path().join(format!("{number}"))).is_ok() {
            left -= len;
        }
    }
    File::create(path).and_then(|file| file.set_len((mib * MIB) as u64)).expect("creates");
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-F", "-d"]).arg(dir.path()).arg(path).status();
    made.is_ok_and(|status| status.success())
}

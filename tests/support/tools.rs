//! Other programs and other people's images to compare with, and digests to compare by.
//!
//! What is absent is said aloud, past the test harness's capture: `SKIPPED <test>: <what is absent>`, one line a test.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use sha2::{Digest, Sha256};
use vmdk::{BlockDevice, BlockStatus};

use super::model::is_zero;
use super::{SECTOR, index};

/// A program found on the `PATH`.
#[derive(Clone, Copy, Debug)]
pub struct Tool(&'static str);

/// `qemu-img`, or `None` and a word about `test` being skipped.
pub fn qemu_img(test: &str) -> Option<Tool> {
    Tool::find("qemu-img", test)
}

/// `qemu-io`, or `None` and a word about `test` being skipped.
pub fn qemu_io(test: &str) -> Option<Tool> {
    Tool::find("qemu-io", test)
}

/// A program that waits for commands. It is gone when this was dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Tool {
    fn find(name: &'static str, test: &str) -> Option<Self> {
        let found = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
        if !found {
            skip(test, &format!("{name} is not installed"));
        }
        found.then_some(Self(name))
    }

    /// Runs the program, whatever comes of it.
    pub fn output<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Output {
        Command::new(self.0).args(args).env("LC_ALL", "C").output().expect("the program was there before")
    }

    /// Runs the program, which must succeed; what it printed.
    pub fn run<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> String {
        let args: Vec<A> = args.into_iter().collect();
        let output = self.output(&args);
        let shown: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {}: {complaint}", self.0, shown.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts the program, which must be one that prompts for commands, and waits until it does; what it printed
    /// instead if it ends before that.
    pub fn start<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Result<Running, String> {
        let mut command = Command::new(self.0);
        command.args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program was there before");
        let prompt = format!("{}> ", self.0);
        let mut stdout = child.stdout.take().expect("it is piped");
        let mut said = Vec::new();
        while !said.ends_with(prompt.as_bytes()) {
            let mut byte = [0];
            if stdout.read(&mut byte).unwrap() == 0 {
                let output = child.wait_with_output().unwrap();
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            said.extend(byte);
        }
        Ok(Running(child))
    }

    /// Writes what `qemu-img` reads from a VMDK into a raw file, with holes.
    pub fn convert_to_raw(self, image: &Path, raw: &Path) {
        let args: [&OsStr; 7] = [
            "convert".as_ref(),
            "-f".as_ref(),
            "vmdk".as_ref(),
            "-O".as_ref(),
            "raw".as_ref(),
            image.as_ref(),
            raw.as_ref(),
        ];
        self.run(args);
    }

    /// What `qemu-img` reads from a VMDK.
    pub fn raw_of(self, image: &Path) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("raw");
        self.convert_to_raw(image, &raw);
        std::fs::read(raw).unwrap()
    }
}

/// A library of Python that reads disk images.
#[derive(Clone, Debug)]
pub struct Reader {
    python: OsString,
    library: &'static str,
}

/// The library `pyvmdk` (libvmdk) or `dissect` (dissect.hypervisor), where the Python that `VMDK_PYTHON` names has it
/// (`python3` unless that is set), or `None` and a word about `test` being skipped.
pub fn reader(test: &str, library: &'static str) -> Option<Reader> {
    let python = std::env::var_os("VMDK_PYTHON").filter(|python| !python.is_empty());
    let python = python.unwrap_or_else(|| "python3".into());
    let module = if library == "dissect" { "dissect.hypervisor.disk.vmdk" } else { library };
    let found = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        let shown = python.to_string_lossy();
        skip(test, &format!("{shown} (VMDK_PYTHON) cannot import {module}"));
        return None;
    }
    Some(Reader { python, library })
}

impl Reader {
    /// The size in bytes and the SHA-256 of what the library reads, from an offset on, from the image that comes first.
    /// Its parents follow, youngest first.
    pub fn read(&self, offset: u64, paths: &[&Path]) -> (u64, String) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/readers.py");
        let output =
            Command::new(&self.python).args([script, self.library, &offset.to_string()]).args(paths).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {}: {complaint}", self.library, paths[0].display());
        let said = String::from_utf8(output.stdout).unwrap();
        let (size, digest) = said.trim_end().split_once(' ').unwrap();
        (size.parse().unwrap(), digest.to_owned())
    }
}

/// The directory with images by other products (environment variable `VMDK_SAMPLES`), or `None` and a word about
/// `test` being skipped.
pub fn sample_dir(test: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("VMDK_SAMPLES").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    if dir.is_none() {
        skip(test, "VMDK_SAMPLES is not set");
    }
    dir
}

/// Says that a test is skipped, in a way that the harness does not swallow.
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    // The macros would be captured; a lost line is not worth a failure.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The SHA-256 of `bytes` as 64 lower-case hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A digest of a disk that leaves out its zeros, so that disks of any size can be compared: `nz4k:` and the SHA-256
/// over, for every aligned block of 4096 bytes with something in it, the offset as a little-endian u64 and the block.
/// A block that the end of the disk cuts counts as far as it goes.
///
/// What the device says to be zero is not read.
pub fn nz4k(device: &dyn BlockDevice) -> String {
    const BLOCK: u64 = 8;
    const AT_ONCE: u64 = 2048;
    let capacity = device.capacity_sectors();
    let mut digest = Sha256::new();
    let mut buf = vec![0; index(AT_ONCE) * SECTOR];
    let mut start = 0;
    while start < capacity {
        let (status, count) = device.block_status(start, capacity - start).unwrap();
        let zero = matches!(status, BlockStatus::Zero | BlockStatus::Hole);
        if zero && (count >= BLOCK || start + count == capacity) {
            start += if start + count == capacity { count } else { count - count % BLOCK };
            continue;
        }
        // Blocks are read whole, also where a run ends inside.
        let count = count.next_multiple_of(BLOCK).min(if zero { BLOCK } else { AT_ONCE }).min(capacity - start);
        let buf = &mut buf[..index(count) * SECTOR];
        device.read_sectors(start, buf).unwrap();
        for (number, block) in (0..).zip(buf.chunks(index(BLOCK) * SECTOR)) {
            if !is_zero(block) {
                digest.update(((start + number * BLOCK) * SECTOR as u64).to_le_bytes());
                digest.update(block);
            }
        }
        start += count;
    }
    format!("nz4k:{}", hex(&digest.finalize()))
}

/// Bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |text, byte| text + &format!("{byte:02x}"))
}

//! What is refused, and what happens when something fails.

use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use vmdk::{BlockDevice, BlockStatus, CreateOptions, CreateType, DeviceLimits, Error, ErrorKind, Result, StreamWriter};

use super::support::model::MemoryDevice;
use super::walk::Walk;
use super::{GRAIN, GRAIN_LEN, Islands, TABLE, noise, options, text};

#[test]
fn a_grain_out_of_place_is_refused_and_changes_nothing() {
    let capacity = 3 * GRAIN + 1;
    let mut stream = StreamWriter::new(Vec::new(), "disk.vmdk", &options(capacity)).unwrap();
    stream.write_grain(GRAIN, &noise(1)).unwrap();
    for (start, len, word) in [
        (1, GRAIN_LEN, "sector 1:"),
        (GRAIN + 1, GRAIN_LEN, "sector 129:"),
        (0, GRAIN_LEN, "sector 0: those before 256"),
        (GRAIN, GRAIN_LEN, "sector 128: those before 256"),
        (2 * GRAIN, 0, "of 0 bytes, which has 65536"),
        (2 * GRAIN, GRAIN_LEN - 1, "of 65535 bytes"),
        (2 * GRAIN, GRAIN_LEN + 512, "of 66048 bytes"),
        (3 * GRAIN, GRAIN_LEN, "of 65536 bytes, which has 512"),
        (3 * GRAIN, 511, "of 511 bytes"),
        (4 * GRAIN, GRAIN_LEN, "sector 512 of a disk of 385"),
        (u64::MAX / GRAIN * GRAIN, GRAIN_LEN, "of a disk of 385"),
    ] {
        let error = stream.write_grain(start, &vec![1; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(word), "no {word:?} in: {error}");
    }
    let source = Islands::new(1, &[]);
    let error = stream.write_all_from(&source, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let last = (3 * GRAIN, text(3 * GRAIN, capacity));
    stream.write_grain(last.0, &last.1).unwrap();
    Walk::piped(&stream.finish().unwrap()).expect(&[(GRAIN, noise(1)), last]);
}

#[test]
fn what_no_stream_can_be_is_refused_before_anything_is_written() {
    let most = u64::from(u32::MAX) * GRAIN;
    for (options, name, word) in [
        (CreateOptions::new(), "a.vmdk", "capacity"),
        (options(0), "a.vmdk", "0 sectors"),
        (options(most + 1), "a.vmdk", "sectors"),
        (options(1), "", "name"),
        (options(1), "dir/a.vmdk", "name"),
        (options(1), "a\"b.vmdk", "quote"),
        (options(1).create_type(CreateType::MonolithicSparse), "a.vmdk", "monolithicSparse"),
        (options(1).grain_sectors(64), "a.vmdk", "grain"),
        (options(1).zero_grains(true), "a.vmdk", "zero grains"),
        (options(1).preallocate(true), "a.vmdk", "preallocated"),
    ] {
        let mut written = Vec::new();
        let error = StreamWriter::new(&mut written, name, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(word), "no {word:?} in: {error}");
        StreamWriter::new_seekable(Cursor::new(&mut written), name, &options).unwrap_err();
        assert_eq!(written, []);
    }
    let mut stream = StreamWriter::new(Vec::new(), "a.vmdk", &options(9)).unwrap();
    let larger = Islands::new(10, &[]);
    let error = stream.write_all_from(&larger, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// An output that has room for so many bytes, takes few at once, and counts its calls after it was full.
struct Narrow {
    room: u64,
    at_once: usize,
    calls_when_full: Arc<AtomicUsize>,
    place: u64,
}

impl Narrow {
    fn new(room: u64) -> Self {
        Self { room, at_once: 1000, calls_when_full: Arc::default(), place: 0 }
    }
}

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = usize::try_from(self.room).unwrap();
        if room == 0 {
            self.calls_when_full.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = bytes.len().min(self.at_once).min(room);
        self.room -= len as u64;
        self.place += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Narrow {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(place) = to else { return Ok(self.place) };
        self.place = place;
        Ok(place)
    }
}

fn write_all<W: Write>(mut stream: StreamWriter<W>, grains: u64) -> Result<()> {
    let mut first = None;
    for grain in 0..grains {
        let written = stream.write_grain(grain * GRAIN, &noise(grain));
        match (&first, written) {
            (None, Err(error)) => first = Some(error),
            (Some(_), written) => assert_eq!(written.unwrap_err().kind(), ErrorKind::Poisoned),
            (None, Ok(())) => {}
        }
    }
    match first {
        None => stream.finish().map(|_| ()),
        Some(first) => {
            let mut source = stream.write_all_from(&Islands::new(1, &[]), &mut |_| ControlFlow::Continue(()));
            assert_eq!(source.unwrap_err().kind(), ErrorKind::Poisoned);
            source = stream.finish().map(|_| ());
            assert_eq!(source.unwrap_err().kind(), ErrorKind::Poisoned);
            Err(first)
        }
    }
}

#[test]
fn an_output_that_is_full_ends_it_at_once_wherever_that_happens() {
    let grains = 20;
    let whole = {
        let mut stream = StreamWriter::new(Vec::new(), "a.vmdk", &options(TABLE)).unwrap();
        (0..grains).for_each(|grain| stream.write_grain(grain * GRAIN, &noise(grain)).unwrap());
        stream.finish().unwrap().len() as u64
    };
    for threads in [1, 2, 4] {
        for room in (0..whole).step_by(77_777).chain(whole - 3000..whole - 2990).chain(whole - 3..whole) {
            let options = options(TABLE).threads(threads);
            let output = Narrow::new(room);
            let calls = Arc::clone(&output.calls_when_full);
            let done = StreamWriter::new(output, "a.vmdk", &options).and_then(|stream| write_all(stream, grains));
            let error = done.unwrap_err();
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::StorageFull, "{room} of {whole}");
            assert_eq!(calls.load(Ordering::Relaxed), 1, "{room}");
            // A few bytes less are written in the other layout.
            let output = Narrow::new(room / 2);
            let stream = StreamWriter::new_seekable(output, "a.vmdk", &options);
            stream.and_then(|stream| write_all(stream, grains)).unwrap_err();
        }
        let stream = StreamWriter::new(Narrow::new(whole), "a.vmdk", &options(TABLE).threads(threads)).unwrap();
        write_all(stream, grains).unwrap();
    }
}

/// A pipe with a slow reader.
struct Slow(Vec<u8>);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_micros(300));
        let len = bytes.len().min(7000);
        self.0.extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_slow_output_gets_everything_in_its_order() {
    for threads in [1, 3] {
        let grains: Vec<_> = (0..40).map(|grain| (grain * GRAIN, noise(grain))).collect();
        let options = options(40 * GRAIN).threads(threads);
        let mut stream = StreamWriter::new(Slow(Vec::new()), "a.vmdk", &options).unwrap();
        for (start, content) in &grains {
            stream.write_grain(*start, content).unwrap();
        }
        Walk::piped(&stream.finish().unwrap().0).expect(&grains);
    }
}

/// Threads of this process that compress, by the beginning of their names.
#[cfg(target_os = "linux")]
fn compressing() -> usize {
    let name = |task: io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.unwrap().path().join("comm"));
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(|task| name(task).ok()).filter(|name| name.starts_with("vmdk-deflate")).count()
}

/// In a process of its own, in which no other test compresses.
#[cfg(target_os = "linux")]
#[test]
fn a_stream_that_is_dropped_ends_its_threads() {
    const HERE: &str = "VMDK_COUNTS_ITS_THREADS";
    if std::env::var_os(HERE).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "failing::a_stream_that_is_dropped_ends_its_threads"]).env(HERE, "1");
        let output = again.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    for threads in [2, 8] {
        let options = options(TABLE).threads(threads);
        let mut stream = StreamWriter::new(Vec::new(), "a.vmdk", &options).unwrap();
        for grain in 0..30 {
            stream.write_grain(grain * GRAIN, &noise(grain)).unwrap();
        }
        while compressing() < threads {
            thread::yield_now();
        }
        drop(stream);
        assert_eq!(compressing(), 0);
    }
}

/// An output that panics once.
#[derive(Debug)]
struct Panics(usize);

impl Write for Panics {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.wrapping_sub(1);
        assert_ne!(self.0, 0, "a bug in somebody's output");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_is_not_finished_after_a_panic() {
    let mut stream = StreamWriter::new(Panics(4), "a.vmdk", &options(10 * GRAIN)).unwrap();
    let write = || (0..10).try_for_each(|grain| stream.write_grain(grain * GRAIN, &noise(grain)));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err());
    assert_eq!(stream.finish().unwrap_err().kind(), ErrorKind::Poisoned);
}

/// The footer of an old stream behind a new one would win.
#[test]
fn a_stream_is_not_begun_in_front_of_something() {
    let mut file = Cursor::new(vec![1; 4096]);
    for position in [0, 4095] {
        file.set_position(position);
        let error = StreamWriter::new_seekable(&mut file, "a.vmdk", &options(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("up to 0x1000"), "{error}");
    }
    assert!(file.get_ref().iter().all(|&byte| byte == 1));
    file.set_position(4096);
    StreamWriter::new_seekable(&mut file, "a.vmdk", &options(1)).unwrap().finish().unwrap();
    Walk::filed(&file.get_ref()[4096..]).expect(&[]);
}

/// A disk that can be read up to a sector.
struct Torn {
    disk: MemoryDevice,
    good: u64,
}

impl BlockDevice for Torn {
    fn capacity_sectors(&self) -> u64 {
        self.disk.capacity_sectors()
    }

    fn limits(&self) -> &DeviceLimits {
        self.disk.limits()
    }

    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        if start >= self.good {
            return Err(Error::new(ErrorKind::Io, "a scratch"));
        }
        self.disk.read_sectors(start, buf)
    }

    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
        self.disk.write_sectors(start, buf)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        self.disk.block_status(start, max)
    }
}

#[test]
fn a_source_that_cannot_be_read_or_a_stop_leaves_no_stream_that_looks_complete() {
    let disk = || MemoryDevice::new((0..64).flat_map(noise).collect());
    let torn = Torn { disk: disk(), good: 4096 };
    for threads in [1, 3] {
        let options = options(8192).threads(threads);
        let mut stream = StreamWriter::new(Vec::new(), "a.vmdk", &options).unwrap();
        let error = stream.write_all_from(&torn, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.to_string(), "a scratch");
        assert_eq!(stream.finish().unwrap_err().kind(), ErrorKind::Poisoned);
        let mut stream = StreamWriter::new(Vec::new(), "a.vmdk", &options).unwrap();
        let mut left = 2;
        let mut stop = |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = stream.write_all_from(&disk(), &mut stop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(stream.finish().unwrap_err().kind(), ErrorKind::Poisoned);
    }
}

//! `Cursor`: a device as a file of `std::io`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::error::Error as _;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};

use proptest::prelude::*;
use vmdk::{BlockDevice, Cursor, DeviceLimits, Error, Result, VmdkImage};

use support::SECTOR;
use support::disk::Kind;
use support::model::MemoryDevice;
use support::rng::Rng;

#[derive(Clone, Debug)]
enum Call {
    Read(usize),
    ReadExact(usize),
    Write(usize),
    WriteAll(usize),
    FromStart(u64),
    FromEnd(i64),
    FromHere(i64),
    Flush,
}

fn call() -> impl Strategy<Value = Call> {
    // Around whole sectors, and whatever else.
    let len = prop_oneof![Just(0), Just(1), 510..515_usize, Just(1024), 0..3000_usize];
    let offset = prop_oneof![-3..4_i64, -520..520_i64, -6000..6000_i64];
    prop_oneof![
        3 => len.clone().prop_map(Call::Read),
        1 => len.clone().prop_map(Call::ReadExact),
        3 => len.clone().prop_map(Call::Write),
        1 => len.prop_map(Call::WriteAll),
        2 => (0..6000_u64).prop_map(Call::FromStart),
        1 => offset.clone().prop_map(Call::FromEnd),
        1 => offset.prop_map(Call::FromHere),
        1 => Just(Call::Flush),
    ]
}

/// What a cursor over `content` must do: a file that cannot grow.
struct Model {
    content: Vec<u8>,
    position: u64,
}

impl Model {
    fn rest(&self) -> usize {
        self.content.len().saturating_sub(self.at())
    }

    fn at(&self) -> usize {
        usize::try_from(self.position).unwrap()
    }

    fn seek(&mut self, base: u64, offset: i64) -> Option<u64> {
        self.position = base.checked_add_signed(offset)?;
        Some(self.position)
    }

    fn moved(&mut self, len: usize) {
        self.position += len as u64;
    }
}

fn check(model: &mut Model, cursor: &mut Cursor<MemoryDevice>, call: &Call, rng: &mut Rng) {
    let end = model.content.len() as u64;
    match *call {
        Call::Read(len) => {
            let mut buf = vec![0; len];
            let read = cursor.read(&mut buf).unwrap();
            // Less than asked for is fine, nothing at all only at the end.
            assert!(read <= len.min(model.rest()), "{read} of {len}");
            assert!(read > 0 || len == 0 || model.rest() == 0, "nothing of {len}");
            assert!(buf[..read] == model.content[model.at().min(model.content.len())..][..read]);
            model.moved(read);
        }
        Call::ReadExact(len) => {
            let mut buf = vec![0; len.min(model.rest())];
            cursor.read_exact(&mut buf).unwrap();
            if !buf.is_empty() {
                assert!(buf == model.content[model.at()..][..buf.len()]);
            }
            model.moved(buf.len());
        }
        Call::Write(len) => {
            let buf = rng.bytes(len);
            let written = cursor.write(&buf).unwrap();
            assert!(written <= len.min(model.rest()), "{written} of {len}");
            assert!(written > 0 || len == 0 || model.rest() == 0, "nothing of {len}");
            put(model, &buf[..written]);
        }
        Call::WriteAll(len) => {
            let buf = rng.bytes(len.min(model.rest()));
            cursor.write_all(&buf).unwrap();
            put(model, &buf);
        }
        Call::FromStart(position) => {
            model.position = position;
            assert_eq!(cursor.seek(SeekFrom::Start(position)).unwrap(), position);
        }
        Call::FromEnd(offset) => check_seek(cursor, SeekFrom::End(offset), model.seek(end, offset)),
        Call::FromHere(offset) => {
            check_seek(cursor, SeekFrom::Current(offset), model.seek(model.position, offset));
        }
        Call::Flush => cursor.flush().unwrap(),
    }
    assert_eq!(cursor.stream_position().unwrap(), model.position);
    assert!(cursor.get_ref().to_vec() == model.content);
}

fn put(model: &mut Model, bytes: &[u8]) {
    if !bytes.is_empty() {
        let at = model.at();
        model.content[at..at + bytes.len()].copy_from_slice(bytes);
    }
    model.moved(bytes.len());
}

fn check_seek(cursor: &mut Cursor<MemoryDevice>, to: SeekFrom, expected: Option<u64>) {
    match expected {
        Some(position) => assert_eq!(cursor.seek(to).unwrap(), position, "{to:?}"),
        None => assert_eq!(cursor.seek(to).unwrap_err().kind(), ErrorKind::InvalidInput, "{to:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_calls_do_what_they_do_to_a_file_that_cannot_grow(
        sectors in 0..9_usize,
        calls in prop::collection::vec(call(), 1..40),
        seed in any::<u64>(),
    ) {
        let rng = &mut Rng::new(seed);
        let content = rng.bytes(sectors * SECTOR);
        let mut cursor = Cursor::new(MemoryDevice::new(content.clone()));
        let mut model = Model { content, position: 0 };
        for call in &calls {
            check(&mut model, &mut cursor, call, rng);
        }
        prop_assert!(cursor.into_inner().to_vec() == model.content);
    }
}

#[test]
fn a_seek_before_the_first_byte_is_an_error_and_moves_nothing() {
    let mut cursor = Cursor::new(MemoryDevice::new(vec![7; 2 * SECTOR]));
    cursor.seek(SeekFrom::Start(100)).unwrap();
    for to in [SeekFrom::Current(-101), SeekFrom::End(-1025), SeekFrom::Current(i64::MIN), SeekFrom::End(i64::MIN)] {
        assert_eq!(cursor.seek(to).unwrap_err().kind(), ErrorKind::InvalidInput, "{to:?}");
        assert_eq!(cursor.stream_position().unwrap(), 100, "{to:?}");
    }
}

#[test]
fn past_the_end_there_is_nothing_to_read_and_no_room_to_write() {
    let mut cursor = Cursor::new(MemoryDevice::new(vec![7; SECTOR]));
    for position in [512, 513, 4096, u64::MAX] {
        cursor.seek(SeekFrom::Start(position)).unwrap();
        assert_eq!(cursor.read(&mut [0; 600]).unwrap(), 0, "{position}");
        assert_eq!(cursor.write(&[1; 600]).unwrap(), 0, "{position}");
        assert_eq!(cursor.write_all(&[1; 600]).unwrap_err().kind(), ErrorKind::WriteZero, "{position}");
        assert_eq!(cursor.stream_position().unwrap(), position);
    }
    // No number wraps.
    assert_eq!(cursor.seek(SeekFrom::Current(1)).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(cursor.into_inner().to_vec() == [7; SECTOR]);
}

#[test]
fn a_write_that_crosses_the_end_is_cut_there() {
    let mut cursor = Cursor::new(MemoryDevice::new(vec![7; 2 * SECTOR]));
    cursor.seek(SeekFrom::Start(600)).unwrap();
    assert_eq!(cursor.write_all(&[9; 500]).unwrap_err().kind(), ErrorKind::WriteZero);
    assert_eq!(cursor.stream_position().unwrap(), 1024);
    assert!(cursor.into_inner().to_vec() == [vec![7; 600], vec![9; 424]].concat());
}

/// What was read before the sector is written back is the device's own: bytes beside the written ones stay.
#[test]
fn bytes_beside_a_ragged_write_stay() {
    let content = Rng::new(1).bytes(3 * SECTOR);
    let mut cursor = Cursor::new(MemoryDevice::new(content.clone()));
    cursor.seek(SeekFrom::Start(511)).unwrap();
    cursor.write_all(&[0xee; SECTOR + 2]).unwrap();
    let expected = [&content[..511], &[0xee; SECTOR + 2], &content[1025..]].concat();
    assert!(cursor.into_inner().to_vec() == expected);
}

#[test]
fn an_image_is_read_through_a_cursor_like_a_file() {
    let disk = Kind::DeepChain.disk(41);
    let image = VmdkImage::open(&disk.path).unwrap();
    let mut content = Vec::new();
    // A borrowed device will do, and a buffer that is no multiple of a sector.
    BufReader::with_capacity(1000, Cursor::new(&image)).read_to_end(&mut content).unwrap();
    assert!(content == disk.content);

    let mut cursor = Cursor::new(image);
    let mut rng = Rng::new(42);
    for _ in 0..200 {
        let start = rng.below(content.len() as u64);
        let len = rng.below(5000).min(content.len() as u64 - start);
        let mut buf = vec![0; support::index(len)];
        cursor.seek(SeekFrom::Start(start)).unwrap();
        cursor.read_exact(&mut buf).unwrap();
        assert!(buf == content[support::index(start)..][..buf.len()], "{len} bytes from {start}");
    }
}

#[test]
fn writing_through_a_cursor_to_a_read_only_image_is_refused() {
    let disk = Kind::Child.disk(43);
    let mut cursor = Cursor::new(VmdkImage::open(&disk.path).unwrap());
    for (position, len) in [(0, 512), (0, 100), (100, 100), (100, 4096)] {
        cursor.seek(SeekFrom::Start(position)).unwrap();
        let error = cursor.write(&vec![1; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{len} bytes at {position}");
        // The crate's own kind is still to be had.
        assert_eq!(Error::from(error).kind(), vmdk::ErrorKind::ReadOnly);
        assert_eq!(cursor.stream_position().unwrap(), position, "a refused write moves nothing");
    }
    cursor.flush().unwrap();
    let mut content = Vec::new();
    cursor.rewind().unwrap();
    cursor.read_to_end(&mut content).unwrap();
    assert!(content == disk.content);
}

/// A device whose last byte has no number.
struct Endless(DeviceLimits);

impl BlockDevice for Endless {
    fn capacity_sectors(&self) -> u64 {
        u64::MAX
    }
    fn limits(&self) -> &DeviceLimits {
        &self.0
    }
    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(start.to_le_bytes()[0]);
        Ok(())
    }
    fn write_sectors(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::new(vmdk::ErrorKind::Io, std::io::Error::other("worn out")))
    }
    fn flush(&self) -> Result<()> {
        Err(Error::from(std::io::Error::new(ErrorKind::TimedOut, "gone")))
    }
}

#[test]
fn a_device_with_more_bytes_than_there_are_numbers_is_read_as_far_as_numbers_go() {
    let mut cursor = Cursor::new(Endless(DeviceLimits::new(false)));
    assert_eq!(cursor.seek(SeekFrom::End(-1)).unwrap(), u64::MAX - 1);
    let mut buf = [0; 4];
    assert_eq!(cursor.read(&mut buf).unwrap(), 1);
    assert_eq!(buf, [0xff, 0, 0, 0]);
    assert_eq!(cursor.read(&mut buf).unwrap(), 0);
}

#[test]
fn what_the_device_reports_comes_out_of_the_cursor() {
    let mut cursor = Cursor::new(Endless(DeviceLimits::new(false)));
    let error = cursor.write(&[0; SECTOR]).unwrap_err();
    assert!(error.to_string().contains("worn out"), "{error}");
    assert!(error.get_ref().is_some() && error.source().is_none());
    assert!(cursor.flush().unwrap_err().to_string().contains("gone"));
    assert_eq!(cursor.stream_position().unwrap(), 0);
}

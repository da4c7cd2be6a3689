//! Makes a seed corpus of small streams: `cargo run --bin streams -- corpus/stream`.
//!
//! Each layout that products write is there, as small as it can be: a fuzzer gets nowhere in large inputs. The numbers
//! are those of the format; nothing of the crate is used, which is what is fuzzed.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// Sectors of a grain, and of the disk: five grains, of which the last is not whole.
const GRAIN: u64 = 8;
const CAPACITY: u64 = 35;

fn main() -> std::io::Result<()> {
    let Some(corpus) = std::env::args_os().nth(1) else {
        eprintln!("usage: streams CORPUS");
        std::process::exit(2);
    };
    std::fs::create_dir_all(&corpus)?;
    for (name, order) in
        [("ascending", &[0, 1, 4][..]), ("backwards", &[4, 1, 0]), ("twice", &[1, 2, 1]), ("empty", &[])]
    {
        for (layout, in_front, ends) in [("classic", false, true), ("preallocated", true, true), ("qemu", true, false)]
        {
            let path = Path::new(&corpus).join(format!("{layout}-{name}.vmdk"));
            std::fs::write(path, stream(order, in_front, ends)?)?;
        }
    }
    Ok(())
}

/// A stream with these grains: its tables in front, or behind them with a footer.
fn stream(order: &[u64], in_front: bool, ends: bool) -> std::io::Result<Vec<u8>> {
    // Header, descriptor, and in front a directory and a table of 128 entries.
    let over_head = if in_front { 4 } else { 2 };
    let mut file = vec![0; over_head * 512];
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n";
    file[512..512 + text.len()].copy_from_slice(text.as_bytes());
    let mut table = vec![0; 512];
    for &grain in order {
        let at = grain as usize * 4;
        table[at..at + 4].copy_from_slice(&((file.len() / 512) as u32).to_le_bytes());
        let sectors = (CAPACITY - grain * GRAIN).min(GRAIN) as usize;
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::new(6));
        zlib.write_all(&vec![grain as u8 + 1; sectors * 512])?;
        let data = zlib.finish()?;
        file.extend_from_slice(&(grain * GRAIN).to_le_bytes());
        file.extend_from_slice(&(data.len() as u32).to_le_bytes());
        file.extend_from_slice(&data);
        pad(&mut file);
    }
    let gd = if in_front { 2 } else { file.len() as u64 / 512 + 3 };
    let mut directory = vec![0; 512];
    directory[..4].copy_from_slice(&(gd as u32 - if in_front { 0 } else { 2 } + u32::from(in_front)).to_le_bytes());
    let head = header(over_head as u64, if in_front { gd } else { u64::MAX });
    file[..512].copy_from_slice(&head);
    if in_front {
        file[1024..1536].copy_from_slice(&directory);
        file[1536..2048].copy_from_slice(&table);
    } else {
        for (kind, body) in [(1, table), (2, directory), (3, header(over_head as u64, gd))] {
            marker(&mut file, 1, kind);
            file.extend_from_slice(&body);
        }
    }
    if ends {
        marker(&mut file, 0, 0);
    }
    Ok(file)
}

fn header(over_head: u64, gd: u64) -> Vec<u8> {
    let mut header = b"KDMV".to_vec();
    for number in [3_u32, 0x3_0001] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    for number in [CAPACITY, GRAIN, 1, 1] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&128_u32.to_le_bytes());
    for number in [0, gd, over_head] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(b"\0\n \r\n\x01\0");
    header.resize(512, 0);
    header
}

fn marker(file: &mut Vec<u8>, value: u64, kind: u32) {
    file.extend_from_slice(&value.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&kind.to_le_bytes());
    pad(file);
}

fn pad(file: &mut Vec<u8>) {
    file.resize(file.len().next_multiple_of(512), 0);
}

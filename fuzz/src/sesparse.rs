//! Makes a seed corpus of small seSparse extents: `cargo run --bin sesparse -- corpus/open_and_read`.
//!
//! Each kind of entry is there, in regions as small as they can be: a fuzzer gets nowhere in large inputs. The numbers
//! are those of the format; nothing of the crate is used, which is what is fuzzed.

use std::path::Path;

/// Sectors of the disk: five grains, of which the last is not whole.
const CAPACITY: u64 = 35;

/// Where the regions begin, in sectors: volatile header, journal header, journal, directory, tables, bitmap, back map,
/// grains.
const REGIONS: [u64; 8] = [1, 2, 4, 5, 6, 70, 71, 72];

/// Entries: unallocated, unmapped, zero, and grains of the file.
const ENTRIES: [(&str, [u64; 5]); 3] = [
    ("kinds", [0, 1 << 60, 2 << 60, 3 << 60, 3 << 60 | 1 << 48]),
    ("data", [3 << 60 | 2 << 48, 3 << 60 | 1 << 48, 3 << 60, 3 << 60 | 3 << 48, 3 << 60 | 4 << 48]),
    ("odd", [3 << 60 | 1, 7 << 60, 5, 3 << 60, 3 << 60]),
];

fn main() -> std::io::Result<()> {
    let Some(corpus) = std::env::args_os().nth(1) else {
        eprintln!("usage: sesparse CORPUS");
        std::process::exit(2);
    };
    std::fs::create_dir_all(&corpus)?;
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"seSparse\"\nRW {CAPACITY} SESPARSE \"e\"\n"
    );
    for (name, entries) in ENTRIES {
        for replay in [0, 1] {
            let extent = extent(&entries, replay);
            let path = Path::new(&corpus).join(format!("sesparse-{name}-{replay}"));
            std::fs::write(&path, vmdk_fuzz::pack([("disk.vmdk", text.as_bytes()), ("e", &extent)]))?;
            std::fs::write(path.with_extension("bare"), &extent)?;
        }
    }
    Ok(())
}

fn extent(entries: &[u64; 5], replay: u64) -> Vec<u8> {
    let mut file = vec![0; REGIONS[7] as usize * 512];
    let mut put = |at: u64, numbers: &[u64]| {
        for (number, at) in numbers.iter().zip((at as usize..).step_by(8)) {
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
    };
    put(0, &[0xcafe_babe, 0x2_0000_0001, CAPACITY, 8, 64, 0, 0, 0, 0, 0]);
    let sizes = [1, 2, 1, 1, 64, 1, 1, CAPACITY];
    for ((start, size), number) in REGIONS.into_iter().zip(sizes).zip(0..) {
        put(80 + 16 * number, &[start, size]);
    }
    put(512, &[0xcafe_cafe, 1, 1, replay]);
    put(1024, &[0xdeaf_c0de, 1, 1]);
    put(REGIONS[3] * 512, &[1 << 60]);
    put(REGIONS[4] * 512, entries);
    put(REGIONS[5] * 512, &[0x1f]);
    put(REGIONS[6] * 512, &[1 << 60, 1 << 60 | 1 << 48, 1 << 60 | 2 << 48, 1 << 60 | 3 << 48, 1 << 60 | 4 << 48]);
    (1..=5).for_each(|grain| file.extend_from_slice(&[grain; 4096]));
    file
}

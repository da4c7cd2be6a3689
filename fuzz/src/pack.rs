//! Makes a seed corpus from the fixtures: `cargo run --bin pack -- ../fixtures corpus/open_and_read`.
//!
//! Every fixture of the manifest becomes one input, with all files of the same stem beside it and its parents, and
//! something to do for the target `operations`. Fixtures beyond `LARGEST` are left out: a fuzzer gets nowhere in large
//! inputs.

use std::path::Path;

const LARGEST: usize = 256 << 10;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (Some(fixtures), Some(corpus)) = (args.next(), args.next()) else {
        eprintln!("usage: pack FIXTURES CORPUS");
        std::process::exit(2);
    };
    std::fs::create_dir_all(&corpus)?;
    let manifest = std::fs::read_to_string(Path::new(&fixtures).join("MANIFEST.tsv"))?;
    let names: Vec<&str> = manifest.lines().skip(1).filter_map(|line| line.split('\t').next()).collect();
    for name in names {
        let stem = name.trim_end_matches(".vmdk");
        let family = stem.rsplit_once('-').map_or(stem, |(family, _)| family);
        let mut files = vec![name.to_owned()];
        for entry in std::fs::read_dir(&fixtures)? {
            let other = entry?.file_name().to_string_lossy().into_owned();
            if other != name && other.ends_with(".vmdk") && (other.starts_with(stem) || other.starts_with(family)) {
                files.push(other);
            }
        }
        let contents: Vec<Vec<u8>> =
            files.iter().map(|file| std::fs::read(Path::new(&fixtures).join(file))).collect::<Result<_, _>>()?;
        let operations = operations(name);
        let files = files.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice));
        let input = vmdk_fuzz::pack(files.chain([(vmdk_fuzz::OPERATIONS, &operations[..])]));
        if input.len() <= LARGEST {
            std::fs::write(Path::new(&corpus).join(name), input)?;
        }
    }
    Ok(())
}

/// A mode and twelve operations of all sorts, others for every name.
fn operations(name: &str) -> Vec<u8> {
    let mut state = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0]
    };
    let mut operations = vec![next()];
    for verb in 0..12 {
        operations.extend([verb, next(), next() & 7, next(), next(), next(), next(), next()]);
    }
    operations
}

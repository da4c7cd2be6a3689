//! Makes the seed corpus from the fixtures: `cargo run --bin pack -- ../fixtures corpus/open_and_read`.
//!
//! Every fixture of the manifest becomes one input, with all files of the same stem beside it and its parents. Fixtures
//! beyond `LARGEST` are left out: a fuzzer gets nowhere in large inputs.

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
        let input = vmdk_fuzz::pack(files.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)));
        if input.len() <= LARGEST {
            std::fs::write(Path::new(&corpus).join(name), input)?;
        }
    }
    Ok(())
}

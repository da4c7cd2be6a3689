//! How much a read costs beyond the bare `pread` it comes down to.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;

use vmdk::VmdkImage;

mod common;
use common::ratio::beside_pread;
use common::{DISK_MIB, converted};

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let rounds = if std::env::args().any(|arg| arg == "--test") { 2 } else { 2000 };
    let dir = tempfile::tempdir().expect("a directory");
    let path = converted(dir.path(), DISK_MIB);
    let image = VmdkImage::open(&path).expect("the image opens");
    let file = File::open(&path).expect("the file opens");
    println!("4 KiB random reads, cached tables: {}", beside_pread(&image, &file, DISK_MIB << 11, rounds));
}

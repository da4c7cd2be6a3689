//! Disks in appliances: from files and pipes, whole and in chunks, and what a hostile archive can claim.

#![cfg(feature = "ova")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{
    BlockDevice, ErrorKind, MemoryStorage, OpenOptions, OvaArchive, RawTarget, Result, StreamReader, read_ova_member,
};

use support::rng::Rng;
use support::sparse::SparseImage;
use support::stream::{StreamImage, StreamKind};
use support::{SECTOR, tools};

/// A member with a header of ustar, of the type `kind`.
fn member(name: &str, kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; SECTOR];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.extend_from_slice(content);
    let end = header.len().next_multiple_of(SECTOR);
    header.resize(end, 0);
    header
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    member(name, b'0', content.len() as u64, content)
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 2 * SECTOR]].concat()
}

fn open(bytes: &[u8]) -> Result<OvaArchive> {
    OvaArchive::new(Arc::new(MemoryStorage::new(bytes)), "test.ova")
}

fn bytes_of(archive: &OvaArchive, name: &str) -> Vec<u8> {
    let storage = archive.storage(name).unwrap();
    let mut bytes = vec![0; support::index(storage.len().unwrap())];
    storage.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn piped(bytes: &[u8], name: &str) -> Result<Vec<u8>> {
    read_ova_member(bytes, name, |member| {
        let mut found = Vec::new();
        member.read_to_end(&mut found)?;
        Ok(found)
    })
}

/// What both ways say of a bad archive.
#[track_caller]
fn refused(bytes: &[u8], kind: ErrorKind) -> String {
    let error = open(bytes).expect_err("it is bad");
    assert_eq!(error.kind(), kind, "{error}");
    let error = piped(bytes, "not there").expect_err("it is bad");
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}

fn stream() -> StreamImage {
    StreamImage::new(StreamKind::Classic, 1000).random(&mut Rng::new(2))
}

#[test]
fn members_are_found_in_a_file_and_in_a_pipe() {
    let long = format!("{}/disk.vmdk", "d".repeat(300));
    let bytes = archive(&[
        file("a.ovf", b"<xml/>"),
        member("dir/", b'5', 0, b""),
        file("./b.vmdk", &[7; 1000]),
        member("link", b'2', 0, b""),
        member("././@LongLink", b'L', long.len() as u64, long.as_bytes()),
        file("cut", b"long"),
        file("empty", b""),
        file("../../etc/passwd", b"only a name"),
    ]);
    let archive = open(&bytes).unwrap();
    let names: Vec<_> = archive.members().iter().map(|member| (&*member.name, member.len)).collect();
    assert_eq!(names, [("a.ovf", 6), ("b.vmdk", 1000), (&*long, 4), ("empty", 0), ("../../etc/passwd", 11)]);
    for (name, content) in
        [("a.ovf", &b"<xml/>"[..]), ("b.vmdk", &[7; 1000]), ("./b.vmdk", &[7; 1000]), (&long, b"long")]
    {
        assert_eq!(bytes_of(&archive, name), content);
        assert_eq!(piped(&bytes, name).unwrap(), content);
    }
    assert_eq!(piped(&bytes, "../../etc/passwd").unwrap(), b"only a name");
    for error in [archive.storage("c").unwrap_err(), piped(&bytes, "c").unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("\"a.ovf\", \"b.vmdk\""), "{error}");
    }
}

#[test]
fn a_disk_is_read_where_it_lies() {
    let image = SparseImage::new(1000).random(&mut Rng::new(1));
    let bytes = archive(&[file("a.ovf", b"x"), file("disk.vmdk", &image.build())]);
    let archive = open(&bytes).unwrap();
    let disk = OpenOptions::new().open_with("disk.vmdk", &archive).unwrap();
    let mut content = vec![0; 1000 * SECTOR];
    disk.read_sectors(0, &mut content).unwrap();
    assert!(content == image.layer().content());
    let written = OpenOptions::new().write(true).allow_bare_extent(true).open_with("disk.vmdk", &archive);
    assert!(written.is_err() || written.unwrap().write_sectors(0, &[1; SECTOR]).is_err());
}

#[test]
fn a_stream_is_read_from_a_pipe_whole_and_in_chunks() {
    let (disk, expected) = (stream().build(), stream().layer().content());
    let chunks: Vec<_> =
        disk.chunks(5000).enumerate().map(|(at, chunk)| file(&format!("disk.vmdk.{at:09}"), chunk)).collect();
    let whole = archive(&[file("a.ovf", &[1; 700]), file("disk.vmdk", &disk), file("b", b"behind")]);
    let in_chunks = archive(&[file("a.ovf", &[1; 700]), chunks.concat(), file("b", b"behind")]);
    for bytes in [&whole, &in_chunks] {
        let target = MemoryStorage::new([]);
        let copied = read_ova_member(&bytes[..], "disk.vmdk", |member| {
            StreamReader::new(member)?.copy_to_raw(&target, RawTarget::Empty, 2, &mut |_| ControlFlow::Continue(()))
        });
        assert!(copied.unwrap().complete);
        assert!(target.to_vec() == expected);
        assert!(bytes_of(&open(bytes).unwrap(), "disk.vmdk") == disk);
        assert!(piped(bytes, "disk.vmdk").unwrap() == disk);
    }
}

#[test]
fn chunks_of_different_lengths_are_refused() {
    let bytes = archive(&[file("d.000000000", b"abc"), file("d.000000001", b"a"), file("d.000000002", b"abc")]);
    assert_eq!(open(&bytes).unwrap().storage("d").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_bad_archive_is_an_error_and_takes_no_memory() {
    assert_eq!(open(b"").unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(open(&[0; 4096]).unwrap_err().kind(), ErrorKind::Corrupt);
    refused(&[7; 4096], ErrorKind::Corrupt);
    refused(b"short", ErrorKind::Corrupt);
    let mut broken = file("a", b"content");
    broken[0] ^= 1;
    assert!(refused(&archive(&[broken]), ErrorKind::Corrupt).contains("archive"));
    // A name of 2 MiB, and one that only claims to be long.
    let name = vec![b'n'; 2 << 20];
    let long = archive(&[member("././@LongLink", b'L', name.len() as u64, &name), file("a", b"")]);
    assert!(refused(&long, ErrorKind::Corrupt).contains("1048576 bytes of names"));
    let long = archive(&[member("././@LongLink", b'L', 5000, &[b'n'; 5000]), file("a", b"")]);
    assert!(refused(&long, ErrorKind::Corrupt).contains("a name of 5000 bytes"));
    refused(&archive(&[member("././@LongLink", b'L', 1 << 32, b"x"), file("a", b"")]), ErrorKind::Corrupt);
    // Sparse members lie in the archive in another form.
    let mut sparse = member("s", b'S', 0, b"");
    sparse[257..265].copy_from_slice(b"ustar  \0");
    sparse[483..494].copy_from_slice(b"00000000000");
    sparse[148..156].fill(b' ');
    let sum: u32 = sparse[..SECTOR].iter().map(|&byte| u32::from(byte)).sum();
    sparse[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    refused(&archive(&[sparse]), ErrorKind::Unsupported);
    let holes = b"22 GNU.sparse.major=1\n";
    refused(&archive(&[member("pax", b'x', 22, holes), file("GNUSparseFile.0/s", b"1\n")]), ErrorKind::Unsupported);
    let plain = archive(&[member("pax", b'x', 15, b"15 path=longer\n"), file("s", b"x")]);
    assert_eq!(piped(&plain, "longer").unwrap(), b"x");
    // A member that ends past the archive.
    let past = [file("a", b"x"), member("b", b'0', 1 << 32, b"only this")].concat();
    assert!(open(&past).unwrap_err().to_string().contains("ends past the archive"));
    assert_eq!(piped(&past, "c").unwrap_err().kind(), ErrorKind::Corrupt);
    let many = archive(&vec![file("m", b""); 10_001]);
    assert!(refused(&many, ErrorKind::Corrupt).contains("10000 members"));
}

#[test]
fn no_cut_and_no_change_is_more_than_an_error() {
    let bytes = archive(&[file("a.ovf", &[1; 700]), file("d", &[2; 1300]), file("e", b"")]);
    let mut rng = Rng::new(9);
    for len in 0..bytes.len() {
        let _ = open(&bytes[..len]);
        let _ = piped(&bytes[..len], "e");
    }
    for _ in 0..3000 {
        let mut changed = bytes.clone();
        for _ in 0..=rng.below(4) {
            let at = support::index(rng.below(bytes.len() as u64));
            changed[at] = rng.bytes(1)[0];
        }
        // With a right checksum, so that what was changed is looked at.
        for at in [0, 3 * SECTOR, 7 * SECTOR] {
            changed[at + 148..at + 156].fill(b' ');
            let sum: u32 = changed[at..at + SECTOR].iter().map(|&byte| u32::from(byte)).sum();
            changed[at + 148..at + 155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        if let Ok(archive) = open(&changed) {
            for member in archive.members() {
                assert!(member.offset + member.len <= changed.len() as u64);
            }
        }
        let _ = piped(&changed, "e");
    }
}

#[test]
fn appliances_by_other_products_have_the_recorded_disks() {
    let Some(dir) = tools::sample_dir("appliances_by_other_products_have_the_recorded_disks") else { return };
    let dir = dir.join("vmware__go-vcloud-director");
    let digest = "80a3721188e40218b08b26776bc53bdae81e4784fff71d71450a197319cba113";
    for (file, name) in [
        ("test_vapp_template.ova", "vm-20b41fa7-3212-4faf-9295-045d0bc49783-disk-0.vmdk"),
        ("template_with_custom_chunk_size.ova", "template_with_custom_chunk_size-disk1.vmdk"),
    ] {
        let bytes = std::fs::read(dir.join(file)).unwrap();
        let whole = bytes_of(&OvaArchive::open(dir.join(file)).unwrap(), name);
        assert!(whole == piped(&bytes, name).unwrap());
        let mut content = Vec::new();
        let mut stream = StreamReader::new(&whole[..]).unwrap();
        stream.copy_to_writer(&mut content, 2, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(tools::sha256_hex(&content), digest, "{file}");
    }
}

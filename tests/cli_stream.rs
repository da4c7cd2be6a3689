//! The command-line tool with what does not lie in a file of its own: pipes, appliances, chunks.

#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use support::descriptor::DescriptorText;
use support::rng::Rng;
use support::stream::{StreamImage, StreamKind};
use support::{SECTOR, tools};

/// Runs the tool in `dir` with something on its standard input: exit code, stdout, stderr.
fn vmdk(dir: &TempDir, args: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    command.current_dir(dir).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A tool that has seen enough closes the pipe.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

/// What a run that must succeed, and quietly, prints.
#[track_caller]
fn succeeds(dir: &TempDir, args: &[&str], input: &[u8]) -> Vec<u8> {
    let (code, stdout, stderr) = vmdk(dir, args, input);
    assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
    stdout
}

/// The error of a run that must fail: one line.
#[track_caller]
fn fails(dir: &TempDir, args: &[&str], input: &[u8]) -> String {
    let (code, _, stderr) = vmdk(dir, args, input);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{args:?}: {stderr}");
    stderr
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn read(dir: &TempDir, name: &str) -> Vec<u8> {
    fs::read(dir.path().join(name)).unwrap()
}

fn names_in(dir: &TempDir) -> usize {
    fs::read_dir(dir).unwrap().count()
}

fn stream() -> StreamImage {
    let text =
        DescriptorText::new("streamOptimized", 5).extent("RW 3000 SPARSE \"disk.vmdk\"").ddb("adapterType", "lsilogic");
    StreamImage::new(StreamKind::Classic, 3000)
        .descriptor_sectors(2)
        .descriptor(text.to_string())
        .random(&mut Rng::new(6))
}

/// A file of an archive; the numbers are those of `tar --format=ustar`.
fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; SECTOR];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.extend_from_slice(content);
    let end = header.len().next_multiple_of(SECTOR);
    header.resize(end, 0);
    header
}

#[test]
fn a_stream_on_standard_input_becomes_a_file_a_pipe_and_a_disk() {
    let dir = dir();
    let (bytes, expected) = (stream().build(), stream().layer().content());
    for threads in ["1", "3"] {
        succeeds(&dir, &["convert", "-", "a.raw", "--threads", threads, "--sync"], &bytes);
        assert!(read(&dir, "a.raw") == expected);
    }
    assert!(succeeds(&dir, &["convert", "-", "-"], &bytes) == expected);
    for (create_type, name) in [("monolithicSparse", "a.vmdk"), ("monolithicFlat", "b.vmdk"), ("vmfsSparse", "c.vmdk")]
    {
        succeeds(&dir, &["convert", "-", name, "--to", create_type], &bytes);
        assert!(succeeds(&dir, &["convert", name, "-"], b"") == expected, "{create_type}");
        let info: Value = serde_json::from_slice(&succeeds(&dir, &["info", "--json", name], b"")).unwrap();
        assert_eq!((&info["create_type"], &info["adapter_type"]), (&create_type.into(), &"lsilogic".into()));
    }
    let error = fails(&dir, &["convert", "-", "a.vmdk", "--to", "monolithicSparse"], &bytes);
    assert!(error.contains("exists"), "{error}");
}

#[test]
fn grains_that_do_not_ascend_go_to_a_file_but_not_to_a_pipe() {
    let dir = dir();
    let image = StreamImage::new(StreamKind::Qemu, 1024).grain(3, vec![3; 65536]).grain(1, vec![1; 65536]);
    succeeds(&dir, &["convert", "-", "a.raw"], &image.build());
    assert!(read(&dir, "a.raw") == image.layer().content());
    assert!(fails(&dir, &["convert", "-", "-"], &image.build()).contains("lba 128 "));
}

#[test]
fn a_stream_that_was_cut_leaves_nothing_unless_it_is_salvaged() {
    let dir = dir();
    let built = stream().build_with_layout();
    let last = built.grains.last().unwrap();
    let cut = &built.bytes[..support::index(last.sector) * SECTOR + 100];
    let error = fails(&dir, &["convert", "-", "a.raw"], cut);
    assert!(error.starts_with("vmdk: standard input: the stream ends at offset 0x"), "{error}");
    assert!(error.contains(&format!("lba {}", last.grain * 128)), "{error}");
    fails(&dir, &["convert", "-", "a.vmdk", "--to", "monolithicSparse"], cut);
    assert_eq!(names_in(&dir), 0);
    let (code, _, stderr) = vmdk(&dir, &["convert", "-", "a.raw", "--salvage"], cut);
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("{} grains were copied", built.grains.len() - 1)), "{stderr}");
    let (found, expected) = (read(&dir, "a.raw"), stream().layer().content());
    let end = support::index(last.grain) * 65536;
    assert!(found[..end] == expected[..end] && found.len() == expected.len());
}

#[test]
fn a_disk_comes_straight_out_of_an_appliance() {
    let dir = dir();
    let (bytes, expected) = (stream().build(), stream().layer().content());
    let chunks = bytes.chunks(70_000).enumerate();
    let chunks: Vec<_> = chunks.map(|(at, chunk)| member(&format!("cut.vmdk.{at:09}"), chunk)).collect();
    let plain = support::sparse::SparseImage::new(2048).random(&mut Rng::new(3));
    let archive = [
        member("a.ovf", b"<xml/>"),
        member("disk1.vmdk", &bytes),
        member("plain.vmdk", &plain.build()),
        chunks.concat(),
        vec![0; 1024],
    ]
    .concat();
    fs::write(dir.path().join("x.ova"), &archive).unwrap();
    for name in ["disk1.vmdk", "cut.vmdk"] {
        succeeds(&dir, &["convert", &format!("x.ova:{name}"), "a.raw"], b"");
        assert!(read(&dir, "a.raw") == expected, "{name}");
        assert!(succeeds(&dir, &["convert", &format!("-:{name}"), "-"], &archive) == expected, "{name}");
        let made = format!("{name}-made.vmdk");
        succeeds(&dir, &["convert", &format!("x.ova:{name}"), &made, "--to", "monolithicSparse"], b"");
        assert!(succeeds(&dir, &["convert", &made, "-"], b"") == expected, "{name}");
    }
    assert!(succeeds(&dir, &["convert", "x.ova:plain.vmdk", "-"], b"") == plain.layer().content());
    for (args, input) in [(["convert", "x.ova:none", "b.raw"], &b""[..]), (["convert", "-:none", "b.raw"], &archive)] {
        let error = fails(&dir, &args, input);
        assert!(error.contains("no member \"none\"") && error.contains("\"disk1.vmdk\""), "{error}");
    }
    assert!(fails(&dir, &["convert", "x.ova", "b.raw"], b"").contains("APPLIANCE:MEMBER"));
    assert!(fails(&dir, &["convert", "x.ova:plain.vmdk", "x.ova"], b"").contains("its own source"));
    assert!(read(&dir, "x.ova") == archive);
}

#[test]
fn info_lists_an_appliance_and_looks_into_its_members() {
    let dir = dir();
    let plain = support::sparse::SparseImage::new(2048).build();
    let archive = [member("a.ovf", b"<xml/>"), member("s.vmdk", &stream().build()), member("p.vmdk", &plain)].concat();
    fs::write(dir.path().join("x.ova"), &archive).unwrap();
    let listing: Value = serde_json::from_slice(&succeeds(&dir, &["info", "--json", "x.ova"], b"")).unwrap();
    let members = listing["members"].as_array().unwrap();
    let names: Vec<_> = members.iter().map(|member| member["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.ovf", "s.vmdk", "p.vmdk"]);
    assert_eq!((&members[0]["is_vmdk"], &members[0]["size"]), (&false.into(), &6.into()));
    assert_eq!(members[1]["create_type"], "streamOptimized");
    assert_eq!(members[1]["virtual_size"], 3000 * SECTOR);
    assert_eq!((&members[2]["virtual_size"], &members[2]["create_type"]), (&(2048 * SECTOR).into(), &Value::Null));
    let text = String::from_utf8(succeeds(&dir, &["info", "x.ova"], b"")).unwrap();
    assert!(text.contains("member: s.vmdk: ") && text.contains("VMDK streamOptimized"), "{text}");
    let member: Value = serde_json::from_slice(&succeeds(&dir, &["info", "--json", "x.ova:p.vmdk"], b"")).unwrap();
    assert_eq!(member["virtual_size"], 2048 * SECTOR);
}

#[test]
fn a_disk_in_chunks_is_one_disk() {
    let dir = dir();
    for (at, chunk) in stream().build().chunks(50_000).enumerate() {
        fs::write(dir.path().join(format!("d.vmdk.{at:09}")), chunk).unwrap();
    }
    succeeds(&dir, &["convert", "d.vmdk.000000000", "a.raw"], b"");
    assert!(read(&dir, "a.raw") == stream().layer().content());
    fs::remove_file(dir.path().join("d.vmdk.000000002")).unwrap();
    assert!(fails(&dir, &["convert", "d.vmdk.000000000", "b.raw"], b"").contains("the file was cut (100000 bytes)"));
    let error = fails(&dir, &["convert", "d.vmdk.000000000", "d.vmdk.000000001", "--salvage"], b"");
    assert!(error.contains("its own source"), "{error}");
    let to_disk =
        ["convert", "d.vmdk.000000000", "d.vmdk.000000001", "--to", "monolithicSparse", "--replace", "--salvage"];
    let error = fails(&dir, &to_disk, b"");
    assert!(error.contains("its own source"), "{error}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let dir = dir();
    let bytes = stream().build();
    for (args, part) in [
        (&["convert", "-", "a.raw", "--raw", "--to", "vmfs"][..], "raw image"),
        (&["convert", "-", "-", "--to", "monolithicSparse"], "standard output"),
        (&["convert", "-", "a.vmdk", "--to", "monolithicSparse", "--parent", "p.vmdk"], "delta"),
        (&["convert", "-", "a.raw", "--source-parent", "p.vmdk"], "parent"),
        (&["info", "-"], "standard input"),
    ] {
        let error = fails(&dir, args, &bytes);
        assert!(error.contains(part), "{error}");
    }
    assert!(fails(&dir, &["convert", "-", "a.raw"], b"no stream").contains("not a stream"));
    assert_eq!(names_in(&dir), 0);
}

#[test]
fn an_ordinary_image_goes_to_standard_output() {
    let dir = dir();
    let image = support::sparse::SparseImage::new(4096).random(&mut Rng::new(5));
    fs::write(dir.path().join("a.vmdk"), image.build()).unwrap();
    assert!(succeeds(&dir, &["convert", "a.vmdk", "-"], b"") == image.layer().content());
}

#[test]
fn a_pipe_of_a_sample_gives_its_recorded_content() {
    let Some(samples) = tools::sample_dir("a_pipe_of_a_sample_gives_its_recorded_content") else { return };
    let bytes = fs::read(samples.join("strozfriedberg__vmdk-rs/streamOptimized.vmdk")).unwrap();
    let found = succeeds(&dir(), &["convert", "-", "-"], &bytes);
    assert_eq!(tools::sha256_hex(&found), "a3bcf05f07a1c06a3380eeca8571f0efb2b85afafa1e21662b8cad436d1f7727");
}

#[test]
fn a_cut_file_is_salvaged_on_request_and_what_is_missing_is_said() {
    let dir = dir();
    let file = stream().build();
    let built = stream().build_with_layout();
    let last = built.grains.last().unwrap();
    fs::write(dir.path().join("cut.vmdk"), &file[..support::index(last.sector) * SECTOR + 100]).unwrap();
    let error = fails(&dir, &["convert", "cut.vmdk", "a.raw"], b"");
    assert!(error.contains("--salvage") && error.contains("gdOffset"), "{error}");
    assert_eq!(names_in(&dir), 1);
    for target in [&["a.raw"][..], &["a.vmdk", "--to", "monolithicSparse"], &["-"]] {
        let (code, _, said) = vmdk(&dir, &[&["convert", "cut.vmdk", "--salvage"], target].concat(), b"");
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("cut.vmdk: ") && said.contains("the file ends within a block"), "{said}");
    }
    let mut expected = stream().layer().content();
    let start = support::index(last.grain) * 128 * SECTOR;
    let end = expected.len().min(start + 128 * SECTOR);
    expected[start..end].fill(0);
    assert!(read(&dir, "a.raw") == expected);
    let info: Value =
        serde_json::from_slice(&succeeds(&dir, &["info", "--json", "--salvage", "cut.vmdk"], b"")).unwrap();
    let found = &info["extents"][0]["salvaged"];
    assert_eq!((&found["complete"], &found["missing_grains"]), (&false.into(), &Value::Null));
    assert_eq!(found["end_offset"], last.sector * SECTOR as u64);
    let text = String::from_utf8(succeeds(&dir, &["info", "--salvage", "cut.vmdk"], b"")).unwrap();
    assert!(text.contains("salvaged:"), "{text}");
}

/// What a guest writes does not make its raw disk anything else.
#[test]
fn a_raw_disk_that_looks_like_an_appliance_is_raw() {
    let dir = dir();
    let raw = [member("disk.vmdk", &stream().build()), vec![0; 1024]].concat();
    fs::write(dir.path().join("disk"), &raw).unwrap();
    succeeds(&dir, &["convert", "disk", "a.vmdk", "--to", "monolithicSparse"], b"");
    succeeds(&dir, &["convert", "a.vmdk", "a.raw"], b"");
    assert!(read(&dir, "a.raw") == raw);
    // Its name may say what it is not.
    fs::rename(dir.path().join("disk"), dir.path().join("disk.ova")).unwrap();
    fails(&dir, &["convert", "disk.ova", "b.vmdk", "--to", "monolithicSparse"], b"");
    succeeds(&dir, &["convert", "disk.ova", "b.vmdk", "--to", "monolithicSparse", "--raw"], b"");
}

/// As `cat a >> a` is refused.
#[test]
fn standard_streams_that_are_the_other_side_are_noticed() {
    let dir = dir();
    let bytes = stream().build();
    let path = dir.path().join("s.vmdk");
    fs::write(&path, &bytes).unwrap();
    let tool = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
        command.current_dir(&dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let refused = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("its own source") && fs::read(&path).unwrap() == bytes, "{said}");
    };
    let appended = || fs::File::options().append(true).open(&path).unwrap();
    for args in [&["convert", "s.vmdk", "-"][..], &["convert", "s.vmdk", "-", "--to", "streamOptimized"]] {
        refused(tool().args(args).stdout(appended()));
    }
    let open = || fs::File::open(&path).unwrap();
    for args in [&["s.vmdk"][..], &["s.vmdk", "--to", "monolithicSparse", "--replace"]] {
        refused(tool().args(["convert", "-"]).args(args).stdin(open()));
    }
    refused(tool().args(["convert", "-", "-"]).stdin(open()).stdout(appended()));
}

/// Else the shell would report an error of `cat`.
#[test]
fn what_writes_into_the_pipe_comes_to_its_end() {
    let dir = dir();
    let mut input = stream().build();
    input.resize(input.len() + (4 << 20), 7);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    let mut child = command.current_dir(&dir).args(["convert", "-", "a.raw"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(read(&dir, "a.raw") == stream().layer().content());
}

#[test]
fn a_stream_passes_by_and_is_compressed_anew() {
    let dir = dir();
    let bytes = stream().build();
    let args = ["convert", "-", "a.vmdk", "--to", "streamOptimized", "--level", "9"];
    succeeds(&dir, &args, &bytes);
    let piped = succeeds(&dir, &["convert", "-", "-", "--to", "streamOptimized"], &bytes);
    fs::write(dir.path().join("b.vmdk"), piped).unwrap();
    for name in ["a.vmdk", "b.vmdk"] {
        succeeds(&dir, &["convert", name, "c.raw"], b"");
        assert!(read(&dir, "c.raw") == stream().layer().content(), "{name}");
        let info: Value = serde_json::from_slice(&succeeds(&dir, &["info", "--json", name], b"")).unwrap();
        assert_eq!((&info["create_type"], &info["adapter_type"]), (&"streamOptimized".into(), &"lsilogic".into()));
    }
    assert_eq!(vmdk(&dir, &args, &bytes).0, 2, "what is there is not replaced");
    fails(&dir, &["convert", "-", "d.vmdk", "--to", "streamOptimized"], &bytes[..bytes.len() - 2048]);
    assert!(!dir.path().join("d.vmdk").exists());
}

//! This crate and QEMU: each keeps the other out as it keeps others of its own kind out.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmdk::Error;

use super::support::tools::{self, Tool};
use super::{end_writing, locked, reader, writer};

/// Both programs of QEMU, and an image with a parent that they made, by path: parent, child.
fn qemu(test: &str, format: &str) -> Option<(Tool, TempDir, [PathBuf; 2])> {
    let (img, io) = tools::qemu_img(test).zip(tools::qemu_io(test))?;
    let dir = tempfile::tempdir().unwrap();
    let paths = ["base.vmdk", "child.vmdk"].map(|name| dir.path().join(name));
    let [base, child] = paths.each_ref().map(|path| path.to_str().unwrap());
    let option = format!("subformat={format}");
    img.run(["create", "-q", "-f", "vmdk", "-o", &option, base, "4M"]);
    // QEMU makes no flat child.
    let option = format!("subformat={}", if format.ends_with("Flat") { "monolithicSparse" } else { format });
    img.run(["create", "-q", "-f", "vmdk", "-o", &option, "-F", "vmdk", "-b", "base.vmdk", child]);
    Some((io, dir, paths))
}

const FORMATS: [&str; 4] = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];

const IO: [&str; 2] = ["-f", "vmdk"];

/// Whether `qemu-io` opens an image with these options.
fn qemu_opens(io: Tool, path: &Path, options: &[&str]) -> bool {
    let path = path.to_str().unwrap();
    let output = io.output([&IO[..], options, &["-c", "read 0 512", path]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("lock"), "{said}");
    output.status.success()
}

#[test]
fn a_running_qemu_keeps_this_crate_out_as_it_keeps_another_qemu_out() {
    const NAME: &str = "a_running_qemu_keeps_this_crate_out_as_it_keeps_another_qemu_out";
    for format in FORMATS {
        let Some((io, _dir, [base, child])) = qemu(NAME, format) else { return };
        let start = |path: &Path, options: &[&str]| {
            io.start([&IO[..], options, &[path.to_str().unwrap()]].concat()).unwrap_or_else(|said| panic!("{said}"))
        };
        let named = |error: &Error, path: &Path| assert_eq!(error.file(), Some(&*path.canonicalize().unwrap()));

        let running = start(&child, &[]);
        for options in [reader(), writer()] {
            named(&locked(options.open(&child)), &child);
        }
        reader().force_share(true).open(&child).unwrap();
        writer().locking(false).open(&child).unwrap();
        // It only reads the parent.
        reader().open(&base).unwrap();
        named(&locked(writer().open(&base)), &base);
        drop(running);

        let running = start(&child, &["-r"]);
        for path in [&base, &child] {
            reader().open(path).unwrap();
            named(&locked(writer().open(path)), path);
        }
        drop(running);

        let running = start(&child, &["-r", "-U"]);
        reader().open(&child).unwrap();
        writer().open(&child).unwrap();
        drop(running);

        let running = start(&base, &[]);
        for options in [reader(), writer()] {
            named(&locked(options.open(&child)), &base);
        }
        reader().force_share(true).open(&child).unwrap();
        drop(running);
        writer().open(&child).unwrap();
    }
}

#[test]
fn an_open_image_keeps_qemu_out_as_another_qemu_does() {
    const NAME: &str = "an_open_image_keeps_qemu_out_as_another_qemu_does";
    for format in FORMATS {
        let Some((io, _dir, [base, child])) = qemu(NAME, format) else { return };
        let opens = |path: &Path| [&[][..], &["-r"], &["-r", "-U"]].map(|options| qemu_opens(io, path, options));

        let image = writer().open(&child).unwrap();
        assert_eq!(opens(&child), [false, false, true], "{format}");
        assert_eq!(opens(&base), [false, true, true], "{format}");
        drop(image);

        let image = reader().open(&child).unwrap();
        assert_eq!(opens(&child), [false, true, true], "{format}");
        assert_eq!(opens(&base), [false, true, true], "{format}");
        drop(image);

        for options in [reader().force_share(true), reader().locking(false), writer().locking(false)] {
            let _image = options.open(&child).unwrap();
            assert_eq!(opens(&child), [true, true, true], "{format}");
            assert_eq!(opens(&base), [true, true, true], "{format}");
        }

        let image = writer().open(&base).unwrap();
        assert_eq!(opens(&child), [false, false, true], "{format}");
        drop(image);
        assert_eq!(opens(&child), [true, true, true], "{format}");
    }
}

#[test]
fn qemu_reads_and_does_not_write_what_is_not_written_any_more() {
    const NAME: &str = "qemu_reads_and_does_not_write_what_is_not_written_any_more";
    for format in FORMATS {
        let Some((io, _dir, [base, child])) = qemu(NAME, format) else { return };
        for path in [&base, &child] {
            let opens = || [&[][..], &["-r"], &["-r", "-U"]].map(|options| qemu_opens(io, path, options));
            let image = writer().open(path).unwrap();
            assert_eq!(opens(), [false, false, true], "{format}");
            end_writing(&image);
            assert_eq!(opens(), [false, true, true], "{format}");
            // The other way round.
            let running = io.start([&IO[..], &["-r", path.to_str().unwrap()]].concat()).unwrap();
            locked(writer().open(path));
            let other = reader().open(path).unwrap();
            drop(image);
            locked(writer().open(path));
            drop(other);
            locked(writer().open(path));
            drop(running);
            writer().open(path).unwrap();
        }
    }
}

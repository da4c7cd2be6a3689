//! A first look at writing, beside qemu-img.
use std::process::Command;
use vmdk::{BlockDevice, OpenOptions};

fn run(args: &[&str]) -> String {
    let out = Command::new(args[0]).args(&args[1..]).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn what_is_written_is_there_for_qemu() {
    let dir = tempfile::tempdir().unwrap();
    for subformat in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let path = dir.path().join(format!("{subformat}.vmdk"));
        let path = path.to_str().unwrap();
        run(&["qemu-img", "create", "-q", "-f", "vmdk", "-o", &format!("subformat={subformat}"), path, "100M"]);
        let mut model = vec![0_u8; 100 << 20];
        let image = OpenOptions::new().write(true).open(path).unwrap();
        for i in 0..200_u64 {
            let start = i * 977 % 204_000;
            let len = 1 + (i * 37) % 300;
            let data: Vec<u8> = (0..len * 512).map(|b| (b * i + i) as u8).collect();
            image.write_sectors(start, &data).unwrap();
            model[start as usize * 512..][..data.len()].copy_from_slice(&data);
        }
        image.write_zeroes(1000, 5000, true).unwrap();
        model[1000 * 512..6000 * 512].fill(0);
        image.discard(9000, 1000).unwrap();
        let mut buf = vec![0; 1000 * 512];
        image.read_sectors(9000, &mut buf).unwrap();
        model[9000 * 512..10000 * 512].copy_from_slice(&buf);
        let mut back = vec![0; 100 << 20];
        image.read_sectors(0, &mut back).unwrap();
        assert!(back == model);
        image.close().unwrap();
        drop(image);
        run(&["qemu-img", "check", path]);
        let raw = dir.path().join("raw");
        run(&["qemu-img", "convert", "-O", "raw", path, raw.to_str().unwrap()]);
        assert!(std::fs::read(&raw).unwrap() == model, "{subformat}");
        let child = dir.path().join(format!("{subformat}-c.vmdk"));
        let child = child.to_str().unwrap();
        run(&["qemu-img", "create", "-q", "-f", "vmdk", "-b", path, "-F", "vmdk", child]);
        let image = OpenOptions::new().write(true).open(child).unwrap();
        for i in 0..100_u64 {
            let start = i * 1977 % 204_000;
            let len = 1 + (i * 31) % 200;
            let data: Vec<u8> = (0..len * 512).map(|b| (b * i * 3 + i) as u8).collect();
            image.write_sectors(start, &data).unwrap();
            model[start as usize * 512..][..data.len()].copy_from_slice(&data);
        }
        image.write_zeroes(20000, 5000, true).unwrap();
        model[20000 * 512..25000 * 512].fill(0);
        drop(image);
        run(&["qemu-img", "check", child]);
        run(&["qemu-img", "convert", "-O", "raw", child, raw.to_str().unwrap()]);
        assert!(std::fs::read(&raw).unwrap() == model, "{subformat} child");
    }
}

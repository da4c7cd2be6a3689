//! What stands where.

use vmdk::{AdapterType, CreateOptions, CreateType, Geometry, StreamWriter};

use super::walk::Walk;
use super::{GRAIN_LEN, TABLE, filed, options, piped, text};

/// The example of the format's description: four grains, the second of which is zero, and the last of which is cut.
fn example() -> Vec<(u64, Vec<u8>)> {
    vec![(0, vec![b'A'; GRAIN_LEN]), (128, vec![0; GRAIN_LEN]), (256, vec![b'B'; GRAIN_LEN]), (384, vec![b'C'; 34_816])]
}

#[test]
fn a_stream_for_a_pipe_stands_as_in_the_example() {
    let stream = piped(&options(452), &example());
    Walk::piped(&stream).expect(&[example().remove(0), example().remove(2), example().remove(3)]);
    // Three grains of a sector each, the table and the directory with their markers, the footer and the end.
    assert_eq!(stream.len(), 141 * 512);
    let sector = |number: usize| &stream[number * 512..][..512];
    assert_eq!(sector(0)[56..64], [0xff; 8]);
    assert_eq!(sector(131)[..16], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(sector(132)[..16], [128, 0, 0, 0, 0, 0, 0, 0, 129, 0, 0, 0, 130, 0, 0, 0]);
    assert_eq!(sector(136)[..16], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(sector(137)[..8], [132, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(sector(138)[..16], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!((&sector(139)[..56], &sector(139)[56..64]), (&sector(0)[..56], &[137, 0, 0, 0, 0, 0, 0, 0][..]));
    assert_eq!(sector(140), [0; 512]);
}

#[test]
fn a_stream_in_a_file_has_its_tables_in_front() {
    let stream = filed(&options(452), &example());
    Walk::filed(&stream).expect(&[example().remove(0), example().remove(2), example().remove(3)]);
    assert_eq!(stream.len(), 132 * 512);
    let sector = |number: usize| &stream[number * 512..][..512];
    assert_eq!((sector(0)[56], sector(0)[64]), (21, 128));
    assert_eq!(sector(21)[..8], [22, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(sector(22)[..16], [128, 0, 0, 0, 0, 0, 0, 0, 129, 0, 0, 0, 130, 0, 0, 0]);
    assert_eq!(sector(131), [0; 512]);
}

#[test]
fn a_stream_without_grains_is_complete() {
    for capacity in [1, 128, TABLE, 10 * TABLE + 1, 40 * TABLE] {
        let walk = Walk::piped(&piped(&options(capacity), &[]));
        assert_eq!((walk.capacity, walk.grains.len(), walk.tables), (capacity, 0, 0));
        let walk = Walk::filed(&filed(&options(capacity), &[]));
        assert_eq!((walk.capacity, walk.grains.len(), walk.tables), (capacity, 0, 0));
    }
}

#[test]
fn tables_without_a_grain_are_left_out() {
    let capacity = 200 * TABLE + 5;
    let starts = [0, TABLE - 128, 3 * TABLE, 3 * TABLE + 256, 130 * TABLE + 1280, 200 * TABLE];
    let grains: Vec<_> = starts.iter().map(|&start| (start, text(start, capacity))).collect();
    for walk in [Walk::piped(&piped(&options(capacity), &grains)), Walk::filed(&filed(&options(capacity), &grains))] {
        walk.expect(&grains);
        assert_eq!(walk.tables, 4);
    }
}

/// The keys that vSphere looks for, in the order of the alphabet.
#[test]
fn the_descriptor_is_that_of_a_disk_for_vsphere() {
    let all = options(20_480)
        .create_type(CreateType::StreamOptimized)
        .adapter_type(AdapterType::BusLogic)
        .hardware_version(14)
        .geometry(Geometry::new(7, 8, 9))
        .disk_id([0x60, 0, 0xc2, 0x9c, 0x1e, 0x8d, 0x52, 0x65, 0x83, 0xc7, 0xfc, 4, 0x5d, 6, 0x19, 0xfc]);
    let walk = Walk::piped(&piped(&all, &[]));
    let [id, long] = ["\nCID=", "\nddb.longContentID = \""].map(|key| value(&walk.descriptor, key));
    assert!(id.len() == 8 && long.len() == 32 && long.ends_with(id), "{id} {long}");
    assert!(!["fffffffe", "ffffffff"].contains(&id));
    let expected = format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={id}\nparentCID=ffffffff\n\
         isNativeSnapshot=\"no\"\ncreateType=\"streamOptimized\"\n\n# Extent description\n\
         RW 20480 SPARSE \"disk.vmdk\"\n\n# The Disk Data Base \n#DDB\n\n\
         ddb.adapterType = \"buslogic\"\nddb.geometry.cylinders = \"7\"\nddb.geometry.heads = \"8\"\n\
         ddb.geometry.sectors = \"9\"\nddb.longContentID = \"{long}\"\nddb.toolsInstallType = \"4\"\n\
         ddb.toolsVersion = \"2147483647\"\nddb.uuid = \"60 00 C2 9c 1e 8d 52 65-83 c7 fc 04 5d 06 19 fc\"\n\
         ddb.virtualHWVersion = \"14\"\n"
    );
    assert_eq!(walk.descriptor, expected);
}

#[test]
fn what_is_not_said_of_a_disk_has_the_usual_values() {
    let walk = Walk::filed(&filed(&options(20_480), &[]));
    for (key, expected) in [
        ("adapterType", "lsilogic"),
        ("virtualHWVersion", "4"),
        ("geometry.cylinders", "10"),
        ("geometry.heads", "64"),
        ("geometry.sectors", "32"),
    ] {
        assert_eq!(value(&walk.descriptor, &format!("ddb.{key} = \"")), expected, "{key}");
    }
    assert!(value(&walk.descriptor, "ddb.uuid = \"").starts_with("60 00 C2 9"));
}

/// What else the output holds is not touched.
#[test]
fn a_stream_in_a_file_begins_where_the_file_stands() {
    let mut output = std::io::Cursor::new(vec![7; 1000]);
    output.set_position(1000);
    let mut stream = StreamWriter::new_seekable(output, "disk.vmdk", &options(452)).unwrap();
    stream.write_grain(256, &text(256, 452)).unwrap();
    let written = stream.finish().unwrap().into_inner();
    assert_eq!(written[..1000], [7; 1000]);
    Walk::filed(&written[1000..]).expect(&[(256, text(256, 452))]);
}

#[test]
fn a_stream_can_be_moved_to_another_thread_and_shown() {
    fn movable<T: Send>(_: &T) {}
    let stream = StreamWriter::new(Vec::new(), "disk.vmdk", &CreateOptions::new().capacity_sectors(8)).unwrap();
    movable(&stream);
    assert_eq!(stream.capacity_sectors(), 8);
    assert!(format!("{stream:?}").contains("capacity_sectors: 8"));
}

fn value<'a>(descriptor: &'a str, key: &str) -> &'a str {
    let start = descriptor.find(key).unwrap() + key.len();
    descriptor[start..].split(['"', '\n']).next().unwrap()
}

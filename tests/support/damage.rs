//! Small images of all sorts, and damage at random.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::SECTOR;
use super::descriptor::DescriptorText;
use super::disk::Kind;
use super::rng::Rng;
use super::stream::{KINDS, StreamImage, StreamKind};

/// The files of an image, the one to open last.
pub type Files = Vec<(String, Vec<u8>)>;

/// Small ones of all sorts: tables of all sizes, embedded and separate descriptors, chains.
pub fn images() -> &'static [Files] {
    static IMAGES: LazyLock<Vec<Files>> = LazyLock::new(made);
    &IMAGES
}

fn made() -> Vec<Files> {
    let kinds = [
        Kind::ZeroGrains,
        Kind::OddLayout,
        Kind::NoRedundantTables,
        Kind::MonolithicFlat,
        Kind::TwoGbMaxExtentSparse,
        Kind::TwoGbMaxExtentFlat,
        Kind::Custom,
        Kind::LargerChild,
        Kind::SmallerChild,
        Kind::DeepChain,
    ];
    // Of each link the file to open comes first.
    let files = |kind: Kind| kind.disk(11).links.into_iter().flat_map(|link| link.files.into_iter().rev()).collect();
    let mut images: Vec<Files> = kinds.map(files).into();
    images.push(delta());
    images.extend(KINDS.map(stream));
    images
}

/// A delta as ESX has it: a COWD extent of 16 one-sector grains, of which every other one is there.
fn delta() -> Files {
    let text = DescriptorText::new("vmfsSparse", 5).extent("RW 16 VMFSSPARSE \"delta\"").to_string();
    let mut cowd = b"COWD".to_vec();
    // Version, flags, sectors, sectors of a grain, directory, its entries, next free sector.
    cowd.extend([1_u32, 3, 16, 1, 4, 1, 45].into_iter().flat_map(u32::to_le_bytes));
    cowd.resize(4 * SECTOR, 0);
    cowd.extend(5_u32.to_le_bytes());
    cowd.resize(5 * SECTOR, 0);
    cowd.extend((0..16_u32).flat_map(|grain| if grain % 2 == 0 { 37 + grain / 2 } else { 0 }.to_le_bytes()));
    cowd.resize(37 * SECTOR, 0);
    cowd.extend(Rng::new(12).bytes(8 * SECTOR));
    vec![("delta".to_owned(), cowd), ("disk".to_owned(), text.into_bytes())]
}

/// A stream of five grains, not in their order, the last of which is cut off by the end of the disk.
fn stream(kind: StreamKind) -> Files {
    let text = DescriptorText::new("streamOptimized", 5).extent("RW 33 SPARSE \"disk\"").to_string();
    let stream = StreamImage::new(kind, 33).grain_sectors(8).entries_per_table(128).descriptor(text);
    let stream = [3, 0, 4].into_iter().fold(stream, |stream, grain| stream.grain(grain, Rng::new(grain).bytes(300)));
    vec![("disk".to_owned(), stream.build())]
}

/// A change of one file. Places are taken modulo its length.
#[derive(Clone, Debug)]
pub enum Damage {
    /// Other bytes at a place.
    Bytes(usize, Vec<u8>),
    /// The file ends there.
    Cut(usize),
    /// The file goes on.
    Grow(Vec<u8>),
    /// Bytes are put in at a place, and the rest moves.
    Insert(usize, Vec<u8>),
    /// So many bytes at a place are taken out, and the rest moves.
    Remove(usize, usize),
}

impl Damage {
    /// Changes a file.
    pub fn apply(&self, file: &mut Vec<u8>) {
        let places = file.len() + 1;
        match self {
            Self::Bytes(place, bytes) => {
                file[place % places..].iter_mut().zip(bytes).for_each(|(there, new)| *there = *new);
            }
            Self::Cut(len) => file.truncate(len % places),
            Self::Grow(bytes) => file.extend(bytes),
            Self::Insert(place, bytes) => {
                let place = place % places;
                file.splice(place..place, bytes.iter().copied());
            }
            Self::Remove(place, count) => {
                let place = place % places;
                file.drain(place..file.len().min(place + count));
            }
        }
    }
}

fn number() -> impl Strategy<Value = Vec<u8>> {
    let edges =
        [0, 1, 2, 3, 127, 128, 129, 511, 512, 1 << 31, u64::from(u32::MAX), 1 << 54, 1 << 55, 1 << 63, u64::MAX];
    let value = prop_oneof![prop::sample::select(edges.to_vec()), any::<u64>(), 0..2000_u64];
    (value, prop::sample::select(vec![1, 2, 4, 8])).prop_map(|(value, size)| value.to_le_bytes()[..size].to_vec())
}

fn words() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "RW 5 ZERO\n",
        "RDONLY 9 FLAT \"disk.vmdk\" 1\n",
        "NOACCESS 3\n",
        "RW 9 SPARSE \"disk.vmdk\"\n",
        "RW 99999999999 VMFS \"disk.vmdk\"\n",
        "\nCID=1\n",
        "\nparentCID=1\n",
        "\nparentFileNameHint=\"disk.vmdk\"\n",
        "\nparentFileNameHint=\"base.vmdk\"\n",
        "createType=\"vmfsSparse\"\n",
        "\"",
        "\n",
        "\r",
        "\0",
        " ",
        "=",
        "0",
    ];
    prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec())
}

/// Any change.
pub fn damage() -> impl Strategy<Value = Damage> {
    // The header, its fields, the metadata, and anywhere.
    let place = || prop_oneof![0..80_usize, 0..2048_usize, 10_000..17_000_usize, any::<usize>()];
    let entry = || (0..40_000_usize).prop_map(|entry| entry * 4);
    let bytes = || prop_oneof![number(), words(), prop::collection::vec(any::<u8>(), 1..9)];
    prop_oneof![
        6 => (prop_oneof![place(), entry()], bytes()).prop_map(|(place, bytes)| Damage::Bytes(place, bytes)),
        2 => place().prop_map(Damage::Cut),
        1 => bytes().prop_map(Damage::Grow),
        1 => (place(), bytes()).prop_map(|(place, bytes)| Damage::Insert(place, bytes)),
        1 => (place(), 1..600_usize).prop_map(|(place, count)| Damage::Remove(place, count)),
    ]
}

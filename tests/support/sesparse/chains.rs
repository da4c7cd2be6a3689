//! Chains with seSparse links, with every kind of grain in each.

use super::super::SECTOR;
use super::super::cowd::CowdImage;
use super::super::disk::Image;
use super::super::rng::Rng;
use super::super::sparse::SparseImage;
use super::{Length, SeSparseImage, SlotOrder, TABLE_COVERS, TableOrder};

/// The links of chains with a name for each chain; the base comes first.
pub fn sesparse_chains(seed: u64) -> Vec<(&'static str, Vec<Image>)> {
    sesparse_chains_with(seed, |extent| extent)
}

/// The same where `change` was done to every seSparse extent.
pub fn sesparse_chains_with(
    seed: u64,
    change: impl Fn(SeSparseImage) -> SeSparseImage,
) -> Vec<(&'static str, Vec<Image>)> {
    let rng = &mut Rng::new(seed);
    let delta = |capacity, rng: &mut Rng| change(every_kind(SeSparseImage::new(capacity), rng).random_layout(rng));
    let vmfs = |sectors: usize, rng: &mut Rng| Image::vmfs("base.vmdk", rng.bytes(sectors * SECTOR));

    // As ESX lays it out, more than two tables, the last grain not a whole one.
    let extent = every_kind(SeSparseImage::new(2 * TABLE_COVERS + 4099), rng).used_journal();
    let alone = vec![Image::se_sparse_base("disk.vmdk", &change(extent))];

    let base = vmfs(33_000, rng);
    let child = Image::se_sparse(&base, "base-000001.vmdk", &delta(33_000, rng));
    let over_vmfs = vec![base, child];

    let base = vmfs(20_001, rng);
    let cowd = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(20_001).random(rng));
    let child = Image::se_sparse(&cowd, "base-000002.vmdk", &delta(20_001, rng));
    let over_vmfs_sparse = vec![base, cowd, child];

    let base = vmfs(9000, rng);
    let middle = Image::se_sparse(&base, "base-000001.vmdk", &delta(9000, rng));
    let hosted = SparseImage::new(9000).with_zero_grains().random(rng);
    let child = Image::child(&middle, "child.vmdk", hosted);
    let below_hosted = vec![base, middle, child];

    let hosted = SparseImage::new(40_968).with_zero_grains().random(rng);
    let base = Image::monolithic_sparse("base.vmdk", hosted.data(0, rng.bytes(128 * SECTOR)));
    let child = Image::se_sparse(&base, "base-000001.vmdk", &delta(40_968, rng));
    let over_hosted = vec![base, child];

    let base = vmfs(37_003, rng);
    let first = Image::se_sparse(&base, "base-000001.vmdk", &delta(37_003, rng));
    // What is hardest to get right by luck: nothing is at the place of its number.
    let extent = every_kind(SeSparseImage::new(37_003), rng)
        .slot_order(SlotOrder::Random(seed))
        .table_order(TableOrder::Random(seed))
        .region_gap(3)
        .length(Length::LastSlot);
    let second = Image::se_sparse(&first, "base-000002.vmdk", &change(extent));
    let over_itself = vec![base, first, second];

    vec![
        ("alone", alone),
        ("over vmfs", over_vmfs),
        ("over vmfsSparse over vmfs", over_vmfs_sparse),
        ("below a hosted sparse child", below_hosted),
        ("over a hosted sparse parent", over_hosted),
        ("over seSparse over vmfs", over_itself),
    ]
}

/// Random grains, and for certain one of each kind at the start and data at the end.
fn every_kind(extent: SeSparseImage, rng: &mut Rng) -> SeSparseImage {
    let last = extent.grain_count() - 1;
    let inside = usize::try_from(extent.capacity() % 8).expect("less than 8");
    let tail = rng.bytes(if inside == 0 { 8 } else { inside } * SECTOR);
    let extent = extent.data(last, tail).data(0, rng.bytes(8 * SECTOR)).absent(1).zero(2).zero_with(3, rng.next_u64());
    extent.unmapped(4).unmapped_with_slot(5).random(rng)
}

//! Byte offsets of fields, for [`super::SeSparseImage::patch`]. All are u64.

/// 0xcafebabe.
pub const MAGIC: u64 = 0;
/// `0x2_0000_0001`: version 2.1.
pub const VERSION: u64 = 8;
/// Sectors.
pub const CAPACITY: u64 = 16;
/// Sectors: 8.
pub const GRAIN_SIZE: u64 = 24;
/// Sectors: 64.
pub const TABLE_SIZE: u64 = 32;
/// 0.
pub const FLAGS: u64 = 40;
/// Four of them, all 0.
pub const RESERVED: u64 = 48;
/// Sector; the size follows, here and below.
pub const VOLATILE_HEADER: u64 = 80;
/// Sector.
pub const JOURNAL_HEADER: u64 = 96;
/// Sector.
pub const JOURNAL: u64 = 112;
/// Sector.
pub const DIRECTORY: u64 = 128;
/// Sector.
pub const TABLES: u64 = 144;
/// Sector.
pub const BITMAP: u64 = 160;
/// Sector.
pub const BACK_MAP: u64 = 176;
/// Sector.
pub const GRAINS: u64 = 192;
/// From an offset to its size.
pub const SIZE: u64 = 8;
/// 304 bytes, all 0.
pub const PAD: u64 = 208;

/// In the volatile header: 0xcafecafe.
pub const VOLATILE_MAGIC: u64 = 512;
/// In the volatile header: the next index of a table to hand out.
pub const FREE_TABLE: u64 = 520;
/// In the volatile header: the number of the next transaction.
pub const NEXT_TRANSACTION: u64 = 528;
/// In the volatile header: not 0 if the tables are stale.
pub const REPLAY_JOURNAL: u64 = 536;
/// In the volatile header: 480 bytes, all 0.
pub const VOLATILE_PAD: u64 = 544;

/// In the journal header: 0xdeafc0de.
pub const JOURNAL_MAGIC: u64 = 1024;
/// In the journal header: the number of the next transaction.
pub const JOURNAL_NEXT: u64 = 1032;
/// In the journal header: 1.
pub const JOURNAL_GENERATION: u64 = 1040;

//! Block by block through a stream, and whether all of it has come.
//!
//! A stream is whole if nothing speaks against it:
//!
//! * It ends with the end-of-stream marker, or its tables are in front and name no grain that has not come: QEMU writes
//!   no marker, and the zeros that it leaves at the end look like one.
//! * The tables name no more grains than have come, and none behind the end.
//! * A directory that the header places, and a footer that it promises, have come before the end: zeros in the place of
//!   what was lost look like an end, too.

use std::io::Read;
use std::path::PathBuf;

use super::front::Front;
use super::source::Source;
use super::tables::{Named, TablesBehind, sector_of};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BlockSizes, GRAIN_MARKER_LEN, KdmvHeader, MARKER_LEN, Marker};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero, to_usize};

const ADVICE: &str = "salvage reads what there is";

/// A grain whose data has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundGrain {
    /// The first sector of the disk that it holds.
    pub(super) lba: u64,
    /// The offset of its marker in the stream.
    pub(super) offset: u64,
    /// Bytes of its data.
    size: usize,
}

impl FoundGrain {
    /// The data in the block that it came in.
    pub(super) fn data(self, block: &[u8]) -> &[u8] {
        &block[GRAIN_MARKER_LEN..GRAIN_MARKER_LEN + self.size]
    }

    /// What is wrong with it.
    pub(super) fn error(self, problem: &str) -> Error {
        let Self { lba, offset, .. } = self;
        let text = format!("the grain with lba {lba} at offset {offset:#x} of the stream: {problem}");
        Error::text(ErrorKind::Corrupt, text)
    }
}

/// The blocks of a stream, from its front on.
#[derive(Debug)]
pub(super) struct Blocks<R> {
    source: Source<R>,
    front: Front,
    sizes: BlockSizes,
    behind: TablesBehind,
    has_footer: bool,
    salvage: bool,
    state: State,
    /// What errors call the stream.
    name: Option<PathBuf>,
    grains: u64,
    missing: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Front,
    Blocks,
    Ended,
    Failed,
}

impl<R: Read> Blocks<R> {
    pub(super) fn new(input: R) -> Result<Self> {
        let mut source = Source::new(input);
        let front = Front::read(&mut source)?;
        let sizes = BlockSizes::of(&front.header)?;
        Ok(Self {
            source,
            behind: TablesBehind::of(&front.header),
            front,
            sizes,
            has_footer: false,
            salvage: false,
            state: State::Front,
            name: None,
            grains: 0,
            missing: None,
        })
    }

    pub(super) fn salvage(&mut self, salvage: bool) {
        self.salvage = salvage;
    }

    /// Whether what is missing is no error.
    pub(super) fn salvages(&self) -> bool {
        self.salvage
    }

    pub(super) fn set_name(&mut self, name: PathBuf) {
        self.name = Some(name);
    }

    pub(super) fn name(&self) -> Option<&PathBuf> {
        self.name.as_ref()
    }

    pub(super) fn front(&self) -> &Front {
        &self.front
    }

    /// Grains that have come.
    pub(super) fn grains(&self) -> u64 {
        self.grains
    }

    /// What is missing of a stream that has ended.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// What came cannot be used: there is nothing more to read.
    pub(super) fn fail(&mut self) {
        self.state = State::Failed;
    }

    pub(super) fn into_inner(self) -> R {
        self.source.into_inner()
    }

    /// The next grain, whose block is put into `block`; `None` at the end. After an error there is nothing more.
    pub(super) fn next(&mut self, block: &mut Vec<u8>) -> Result<Option<FoundGrain>> {
        self.next_block(block).map_err(|error| {
            self.state = State::Failed;
            in_stream(error, self.name.as_ref())
        })
    }

    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<Option<FoundGrain>> {
        match self.state {
            State::Front => self.front.pass(&mut self.source)?,
            State::Blocks => {}
            State::Ended => return Ok(None),
            State::Failed => {
                return Err(Error::text(
                    ErrorKind::InvalidInput,
                    "the stream was not read to its end: there was an error",
                ));
            }
        }
        self.state = State::Blocks;
        loop {
            let offset = self.source.offset();
            block.resize(SECTOR_SIZE, 0);
            let len = self.source.fill(block)?;
            let Some(start) = block[..len].first_chunk::<MARKER_LEN>() else {
                return self.end_of_input(offset, is_zero(&block[..len])).map(|()| None);
            };
            let marker = Marker::decode(start);
            let sectors = self.sizes.sectors_of(marker).map_err(|bad| bad_marker(offset, marker, bad))?;
            let body = (sectors - 1) * SECTOR_BYTES;
            let is_whole = match marker {
                Marker::Grain { lba, size } => {
                    let grain = FoundGrain { lba, offset, size: to_usize(size.into()) };
                    if self.read_grain(grain, block, len, sectors)? {
                        self.grains += 1;
                        return Ok(Some(grain));
                    }
                    false
                }
                Marker::End => {
                    self.end(self.missing_at_end(offset))?;
                    return Ok(None);
                }
                _ if len < SECTOR_SIZE => false,
                Marker::Table { .. } => self.pass_table(body)?,
                Marker::Directory { .. } => self.pass_directory(body)?,
                Marker::Footer { .. } => self.pass_footer(block)?,
                Marker::Progress => true,
                Marker::Unknown { .. } => self.source.pass(body, |_| {})? == body,
            };
            if !is_whole {
                self.cut(offset, marker)?;
                return Ok(None);
            }
        }
    }

    /// Reads the rest of a grain, of which the first sector is there up to `len`. At the end of the input the zeros
    /// behind the data may be missing.
    fn read_grain(&mut self, grain: FoundGrain, block: &mut Vec<u8>, mut len: usize, sectors: u64) -> Result<bool> {
        block.resize(to_usize(sectors) * SECTOR_SIZE, 0);
        if len == SECTOR_SIZE {
            len += self.source.fill(&mut block[SECTOR_SIZE..])?;
        }
        Ok(len >= GRAIN_MARKER_LEN + grain.size)
    }

    fn pass_table(&mut self, len: u64) -> Result<bool> {
        let offset = self.source.offset();
        self.behind.begin_table(sector_of(offset));
        if self.behind.are_too_many() {
            let text =
                format!("the grain table at offset {offset:#x} of the stream: there are more than the disk can have");
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
        Ok(self.source.pass(len, |bytes| self.behind.add_table(bytes))? == len)
    }

    fn pass_directory(&mut self, len: u64) -> Result<bool> {
        self.behind.begin_directory();
        Ok(self.source.pass(len, |bytes| self.behind.add_directory(bytes))? == len)
    }

    fn pass_footer(&mut self, block: &mut Vec<u8>) -> Result<bool> {
        let offset = self.source.offset();
        block.resize(SECTOR_SIZE, 0);
        if self.source.fill(block)? < SECTOR_SIZE {
            return Ok(false);
        }
        let footer = block.first_chunk().and_then(KdmvHeader::decode);
        check_footer(&self.front.header, footer.as_ref(), offset)?;
        self.has_footer = true;
        Ok(true)
    }

    /// The input ends where a block could begin, but for what is left of a sector.
    fn end_of_input(&mut self, offset: u64, is_zero: bool) -> Result<()> {
        let missing = if !is_zero {
            Some(format!("the stream ends at offset {:#x}, within the marker at {offset:#x}", self.source.offset()))
        } else if sector_of(self.source.offset()) < self.front.header.over_head {
            Some(format!("the stream ends at offset {offset:#x}, before its first grain could begin"))
        } else if self.front.tables.is_none() {
            Some(format!("the stream ends at offset {offset:#x} without an end-of-stream marker"))
        } else {
            self.missing_at_end(offset)
        };
        self.end(missing)
    }

    /// The input ends within the block at `offset`.
    fn cut(&mut self, offset: u64, marker: Marker) -> Result<()> {
        let what = match marker {
            Marker::Grain { lba, .. } => format!("the grain with lba {lba}"),
            Marker::Table { .. } => "the grain table".to_owned(),
            Marker::Directory { .. } => "the grain directory".to_owned(),
            Marker::Footer { .. } => "the footer".to_owned(),
            Marker::Progress | Marker::End | Marker::Unknown { .. } => "the block".to_owned(),
        };
        let end = self.source.offset();
        self.end(Some(format!("the stream ends at offset {end:#x}, within {what} at {offset:#x}")))
    }

    /// What speaks against a stream that ends at `offset` being whole.
    fn missing_at_end(&self, offset: u64) -> Option<String> {
        let header = &self.front.header;
        let early = format!("the stream ends early, at offset {offset:#x}");
        let named = self.named();
        if named.grains > self.grains {
            let (named, came) = (named.grains, self.grains);
            return Some(format!("{early}: its tables name {named} grains, and {came} have come"));
        }
        if named.highest >= sector_of(offset) {
            return Some(format!("{early}: its tables name a grain at sector {} of the stream", named.highest));
        }
        if let Some(sector) = self.behind.lost().filter(|_| self.front.tables.is_none()) {
            return Some(format!(
                "a part of the stream is missing: a table of sector {sector} of it has not come there"
            ));
        }
        if header.is_directory_at_end() && !self.has_footer {
            return Some(format!("{early}: its header promises a footer, and none has come"));
        }
        let is_behind = self.front.tables.is_none() && !header.is_directory_at_end();
        if is_behind && header.gd_offset >= sector_of(offset) {
            return Some(format!("{early}: its header has the grain directory at sector {}", header.gd_offset));
        }
        None
    }

    fn named(&self) -> Named {
        self.front.tables.as_ref().map_or_else(|| self.behind.named(), super::tables::FrontTables::named)
    }

    fn end(&mut self, missing: Option<String>) -> Result<()> {
        if let Some(text) = missing.clone().filter(|_| !self.salvage) {
            return Err(Error::text(ErrorKind::Corrupt, text).with_advice(ADVICE));
        }
        self.missing = missing;
        self.state = State::Ended;
        Ok(())
    }
}

/// Names the stream in an error about it, if it has a name.
pub(super) fn in_stream(error: Error, name: Option<&PathBuf>) -> Error {
    match name {
        Some(name) => error.in_file(name),
        None => error,
    }
}

fn bad_marker(offset: u64, marker: Marker, (field, value, problem): (&str, u64, &str)) -> Error {
    let of = match marker {
        Marker::Grain { lba, .. } => format!(" (lba {lba})"),
        _ => String::new(),
    };
    let text = format!("the block at offset {offset:#x} of the stream{of}: {field} is {value:#x}: {problem}");
    Error::text(ErrorKind::Corrupt, text)
}

/// A footer says the same as the header, but for the place of the directory.
fn check_footer(header: &KdmvHeader, footer: Option<&KdmvHeader>, offset: u64) -> Result<()> {
    let Some(footer) = footer else {
        let text = format!("the footer at offset {offset:#x} of the stream is no header of a sparse extent");
        return Err(Error::text(ErrorKind::Corrupt, text));
    };
    for (field, of_footer, of_header) in [
        ("capacity", footer.capacity, header.capacity),
        ("grainSize", footer.grain_size, header.grain_size),
        ("numGTEsPerGT", footer.gtes_per_gt.into(), header.gtes_per_gt.into()),
    ] {
        if of_footer != of_header {
            let text = format!(
                "the footer at offset {offset:#x} of the stream has the {field} {of_footer}, the header {of_header}"
            );
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
    }
    Ok(())
}

//! What the JSON that commands print consists of.

pub(super) const INFO_JSON: &str = "\
Keys of the JSON object. Sizes and offsets are numbers of bytes; what an image does not say is null.
  path                 the file that was opened
  create_type          type of the disk, as its descriptor calls it
  virtual_size         size of the disk
  allocated_size       what the files of the image take up on the host, parents not counted
  file_size            sum of the lengths of these files
  cid, parent_cid      content IDs, 8 hexadecimal digits; parent_cid is null without a parent
  long_content_id      the long content ID
  parent_hint          the name of the parent, as the descriptor has it
  parent_hint_raw      its bytes there, hexadecimal
  parent_hint_error    why these are no text in the encoding of the descriptor; parent_hint only resembles it then
  encoding             the encoding that the descriptor names
  change_track_path    the change tracking file, if changes are tracked
  change_tracking      that file; null without one:
    path, path_raw, path_error  its name, as for the parent
    header               its first 64 bytes, hexadecimal; null with an error
    fields               what is known of them:
      offset, size, raw  where they are, and the bytes, hexadecimal
      meaning, certainty what they seem to be, and whether that is presumed, guessed or unknown
    error                why the header was not read
  geometry             cylinders, heads, sectors (per track); null, or from the youngest link that has one
  adapter_type         likewise
  hardware_version     likewise
  uuid                 likewise
  header               sparse header of the opened file, if it has one; its format is KDMV, COWD or seSparse:
    format, version, flags, capacity, grain_size, gtes_per_gt, gd_offset, unclean_shutdown
    descriptor_offset, descriptor_size, rgd_offset, overhead, compress_algorithm (KDMV)
    gd_entries, free_offset, generation (COWD)
    gt_offset, bitmap_offset, back_map_offset, grains_offset, tables, next_transaction (seSparse)
    (a number that is too large for bytes is null)
  extents              the extents, in their order:
    access, type         RW, RDONLY or NOACCESS; FLAT, SPARSE, ZERO, ...
    start, size          where on the disk it is
    name, name_raw, name_error  the name in the descriptor, as for the parent
    path, offset         the file that holds it, and where in a flat file it begins
    header               as above
    salvaged             with --salvage, of a stream: what was found of it; else null:
      grains, end        grains, and where on the extent the last of them ends
      end_offset         where in the file the stream was left
      problem            why there; null at its end
      missing_grains     grains that the tables name and that are not there; null if no table can tell
      damaged            where on the extent grains begin that turned out to be damaged
      complete           whether nothing is known to be missing
  warnings             what is odd about the image
  chain                the links, the image itself first:
    path, create_type, cid, parent_cid, change_track_path, virtual_size, allocated_size, file_size, warnings
  chain_error          why the chain is broken, or null; then only the image itself stands in chain
Of an appliance (.ova):
  path                 the file that was opened
  members              the files in it, in their order:
    name, offset, size   its name, and where in the archive its content is
    is_vmdk              whether it begins as a VMDK does
    create_type, virtual_size  of a disk as far as they can be told, else null";

pub(super) const MAP_JSON: &str = "\
The JSON is an array of objects, one for each stretch of the disk, without gaps. Keys, with numbers of bytes:
  start, length        the stretch
  depth                the link that answers for it: 0 is the image, 1 its parent, ...
  present              whether a link has it, be it as zeros; with --above, whether it has changed since BASE
  zero                 whether it reads as zeros
  data                 whether there is room for it in a file
  compressed           whether it lies there compressed
  offset               where it lies in its file; absent if it has no place";

pub(super) const CHECK_JSON: &str = "\
Keys of the JSON object. Sizes and offsets are numbers of bytes.
  path                 the image
  clean                whether nothing but notes was found
  links                how many links were looked at
  corruptions          how many grains, tables or lines are lost or at risk
  inconsistencies      how many can be put right without any loss, unless worse is in the way
  notes                how many are odd, and no more
  leaked_bytes         what nothing uses
  counts               kind, severity and count of all that was found
  findings             the first thousand of each kind:
    kind, severity       grain-past-end, copy-differs, ...; corruption, inconsistency or note
    link, extent         the link (0 is the image) and the number of its extent, or null
    file                 the file
    start, length        the stretch of the disk, or null
    offset, end_offset   where in the file it stands, or null
    count                how many grains, tables or lines are alike, one behind the other
    text                 what is wrong
    repair               what `vmdk repair` does about it; null if it leaves it alone";

pub(super) const REPAIR_JSON: &str = "\
Keys of the JSON object:
  path                 the image
  before, after        what was found before and what is left, as `vmdk check --json` has it; after is null with --dry-run
  changes              how many stretches of files were changed
  undo                 the undo file, or null
With --restore:
  path, taken_back     the image, and how many records of the undo file were taken back; a large change has several";

pub(super) const RENAME_JSON: &str = "\
Keys of the JSON object:
  files                the files that have another name now, the one with the descriptor first:
    from, to             the old path and the new one
  kept                 names of extents whose files keep theirs: they lie somewhere else, are devices, or take no writes
  parent_hint          what the descriptor calls the parent from its new directory; null if that has not changed
  children             the children that find the disk by its new name
  notes                what a person should know";

pub(super) const COPY_JSON: &str = "\
Keys of the JSON object:
  files                the files of the copy, the one with the descriptor first
  bytes                the sum of their lengths, holes included
  parent_hint          what the copy calls the parent from its directory; null if it does so as the disk does
  notes                what a person should know";

package segment

// The magics. A file begins with headerMagic and ends with trailerMagic, so a
// truncated or foreign file is recognised before anything else of it is believed.
const (
	headerMagic  = "SKALDSEG"
	trailerMagic = "GESDLAKS"
	// trailerSize: footer length u32, footer CRC-32C u32, file size u64, version u32, magic.
	trailerSize = 4 + 4 + 8 + 4 + 8
)

// Version is the format version that this package reads and writes.
const Version = 4

// Limits of the format. A reader refuses larger values, so they bound what a hostile
// file can make it allocate; a writer stays below them.
const (
	// MaxLineBytes is the longest line that a segment can hold.
	MaxLineBytes = 32 << 20
	// maxBlockBytes bounds a block's line bytes: a full block and one line of the longest kind.
	maxBlockBytes = 16<<20 + MaxLineBytes
	// maxBlockRows bounds a block's rows.
	maxBlockRows = 1 << 20
	// maxMetadataBytes bounds a decoded metadata column.
	maxMetadataBytes = 64 << 20
	// maxSectionBytes bounds a decoded stream table, postings list or block index.
	maxSectionBytes = 1 << 30
	// maxMetadataNames bounds the metadata columns of a block. Rows with more names than
	// that are cut into the next block, or refused when one row alone has more.
	maxMetadataNames = 1 << 14
)

// Defaults of WriterOptions.
const (
	// DefaultBlockBytes: larger blocks compress better (1 MiB: 2.6 % smaller; 128 KiB: 2.8 %
	// larger, with a needle index of 8.8 % rather than 7.8), and make each needle found cost
	// more, to fetch and to decode. Whole scans cost the same from 128 KiB to 1 MiB.
	DefaultBlockBytes = 256 << 10
	// DefaultBlockRows keeps decoded timestamps of a block in the L2 cache (512 KiB).
	DefaultBlockRows = 1 << 16
	// Open first reads as much of a file's end as usually holds footer, block index, stream
	// table and postings: between minTail and maxTail bytes. Of the bench's objects of 15 to 256
	// MB, the block index is 0.066 to 0.068 % and the rest 10 to 14 KB; with a whole thousandth
	// a search in 10 GB would read more than that of it.
	tailShare = 1280
	tailRest  = 8 << 10
	minTail   = 32 << 10
	maxTail   = 512 << 10
)

// kind says what a frame holds. It enters the frame's checksum.
type kind uint8

const (
	kindTimes    kind = 1
	kindLengths  kind = 2
	kindMetadata kind = 3
	kindHashes   kind = 4
	kindLines    kind = 5
	kindNeedles  kind = 6
	kindPostings kind = 7
	kindStreams  kind = 8
	kindIndex    kind = 9
	kindFooter   kind = 10
	kindIDs      kind = 11
	kindIDLists  kind = 12
)

var kindNames = [...]string{"?", "timestamp column", "length column", "metadata column", "hash column",
	"line column", "needle index", "postings", "stream table", "block index", "footer", "id table", "id lists"}

func (k kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[0]
}

// place is where a frame stands: its kind, its block (or needle group, or 0) and its
// ordinal among frames of that kind there. It is mixed into the checksum.
type place struct {
	kind    kind
	block   uint32
	ordinal uint32
}

package disk

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
)

// blockMap writes a block map, format 2.0, as Debian's bmaptool reads it: which
// blocks of the image have to be written, with a hash of each range. sums are
// those of chunks.
func blockMap(size int64, chunks []chunk, sums [][sha256.Size]byte) []byte {
	var ranges bytes.Buffer
	var mapped int64
	for i, c := range chunks {
		first, last := c.off/block, (c.off+c.size-1)/block
		mapped += last - first + 1
		where := fmt.Sprintf("%d-%d", first, last)
		if first == last {
			where = fmt.Sprint(first)
		}
		fmt.Fprintf(&ranges, "        <Range chksum=\"%x\">%s</Range>\n", sums[i], where)
	}
	// The map's own hash is taken with zeros in its place.
	none := strings.Repeat("0", 2*sha256.Size)
	xml := fmt.Appendf(nil, `<?xml version="1.0" ?>
<bmap version="2.0">
    <ImageSize>%d</ImageSize>
    <BlockSize>%d</BlockSize>
    <BlocksCount>%d</BlocksCount>
    <MappedBlocksCount>%d</MappedBlocksCount>
    <ChecksumType>sha256</ChecksumType>
    <BmapFileChecksum>%s</BmapFileChecksum>
    <BlockMap>
%s    </BlockMap>
</bmap>
`, size, block, ceil(size, block), mapped, none, ranges.Bytes())
	return bytes.Replace(xml, []byte(none), fmt.Appendf(nil, "%x", sha256.Sum256(xml)), 1)
}

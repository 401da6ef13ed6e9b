// Edgecache is a node of a peer-to-peer content delivery network that speaks
// BitTorrent, so that any BitTorrent client can fetch from it.
//
// The parties are the owner of the box, who names the content in site.toml; the
// origin, an ordinary web server that holds each .torrent file and the content
// (BEP 19 web seeds); trackers, which introduce peers; and peers, strangers who
// fetch from this box and may lie. workd starts the program and tells it through
// the environment:
//
//	FOGWRIGHT_CONFIG  JSON file: what to share and within which limits (Config)
//	FOGWRIGHT_REPORT  JSON file that this program keeps: what it shares (Report)
//	FOGWRIGHT_DATA    folder for everything that is kept over a restart
//
// Nobody but the owner is trusted. A .torrent file is believed when its info hash
// is the one that the owner pinned; without a pin, the first answer of the origin
// is kept for good. Content is believed piece by piece, by SHA-1 (BEP 3). No name
// out of a torrent ever becomes a path: content lies in one flat file per item.
//
// Every item is fetched once, checked and then served, also after a restart with
// the origin gone. A bad item never disturbs the others.
//
// The program listens on one TCP port, for IPv4 and IPv6, and on nothing else: no
// DHT, no µTP, no port mapping, no local discovery, no WebRTC, no UDP trackers.
//
// To fetch from a box by hand, with the address that `fogwright ctl status` shows
// and a peer-to-peer client such as aria2:
//
//	aria2c --seed-time=0 content.torrent
//
// finds the box through the tracker that content.torrent names. Without a tracker,
// any client that lets its user add a peer by hand can be given ADDRESS:6881
// (Deluge, qBittorrent: "Add peers").
package main

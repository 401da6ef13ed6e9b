#!/bin/sh
# Installs what `make run` and `make test` need besides Go. Debian and Ubuntu only;
# elsewhere it says what to install. Asks before it uses sudo, except in CI.
#
#   ci/setup.sh run     QEMU and a BitTorrent client to watch a box with
#   ci/setup.sh test    the above, and the foreign tools that judge our formats
set -eu

run='qemu-system-x86:qemu-system-x86_64 qemu-system-arm:qemu-system-aarch64 aria2:aria2c'
test='gdisk:sgdisk fdisk:sfdisk dosfstools:fsck.fat mtools:mdir bmap-tools:bmaptool e2fsprogs:e2fsck
  u-boot-tools:dumpimage device-tree-compiler:dtc binutils:objdump sbsigntool:sbverify zstd:zstd cpio:cpio xz-utils:xz
  nmap:nmap transmission-cli:transmission-cli dnsmasq-base:dnsmasq iproute2:ip tshark:tshark curl:curl util-linux:nsenter dpkg:dpkg-deb git:git
  python3-jsonschema:/usr/lib/python3/dist-packages/jsonschema'

case "${1:-}" in
run) want=$run ;;
test) want="$run $test" ;;
*) echo "usage: ci/setup.sh run|test" >&2; exit 2 ;;
esac

command -v go >/dev/null || {
  echo "Go is missing. Install Go $(sed -n 's/^go //p' "$(dirname "$0")/../go.mod") or newer: https://go.dev/doc/install" >&2
  exit 1
}

# Administrators' tools lie outside an ordinary user's PATH on Debian.
PATH=$PATH:/usr/sbin:/sbin
missing=
for pair in $want; do
  probe=${pair#*:} # a command, or a file by its full path
  command -v "$probe" >/dev/null || [ -e "$probe" ] || missing="$missing ${pair%%:*}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "Please install these (the names are Debian's):$missing" >&2
  exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
  sudo=sudo
  if [ "${CI:-}" != true ]; then
    [ -t 0 ] || { echo "Please install:  sudo apt-get install$missing" >&2; exit 1; }
    printf 'Fogwright needs:%s\nInstall with sudo apt-get? [y/N] ' "$missing"
    read -r answer
    case "$answer" in y | Y | yes) ;; *) exit 1 ;; esac
  fi
fi
echo "installing:$missing"
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null

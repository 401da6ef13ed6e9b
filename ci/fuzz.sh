#!/bin/sh
# Runs every fuzz target of the module, and of the nested modules named as
# arguments, for FUZZTIME each. The default is a count: with a time, the go command
# now and then takes its own deadline for a finding. A real finding fails the run and
# leaves its input below testdata/fuzz, to be committed as a regression test.
set -eu
cd "$(dirname "$0")/.."
time=${FUZZTIME:-5000x}
count=0
for module in . "$@"; do
  for file in $(cd "$module" && grep -rl --include='*_test.go' '^func Fuzz' . | sort); do
    # Nested modules have their own turn.
    case "$module:$file" in .:./initramfs/workload/edgecache/*) continue ;; esac
    for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$module/$file"); do
      (cd "$module" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$(dirname "$file")" >/tmp/fuzz.$$ 2>&1) ||
        { cat /tmp/fuzz.$$; rm -f /tmp/fuzz.$$; echo "FAIL: $target in $file"; exit 1; }
      count=$((count + 1))
    done
  done
done
rm -f /tmp/fuzz.$$
echo "$count fuzz targets, $time each: nothing found"

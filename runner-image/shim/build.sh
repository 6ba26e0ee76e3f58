#!/bin/sh
# build.sh TARGET: the one place that says how the shim is compiled. Static, because it runs in images that have nothing.
set -eu
exec "${CC:-cc}" -std=c11 -Os -Wall -Wextra -Wpedantic -Werror -static -s -o "$1" "$(dirname "$0")"/*.c

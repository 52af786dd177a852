#!/bin/sh
# Installs what the engine tests need on Debian: Wine for 64-bit programs, and the MinGW-w64 C compiler.
set -eu

missing=""
for package in wine wine64 gcc-mingw-w64-x86-64; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
[ "$(id -u)" -eq 0 ] || as_root="sudo"
$as_root apt-get update --quiet --quiet
# shellcheck disable=SC2086 # a list of package names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends $missing

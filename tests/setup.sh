#!/bin/sh
# Installs on Debian what the tests of Microsoft's debugger engine need (Wine for 64-bit programs, the MinGW-w64 C
# compiler), those of the HTML pages (Chromium, fonts, PDF tools), QEMU, which writes cores of a virtual machine, and
# zsh, whose completion is tested.
set -eu

missing=""
for package in wine wine64 gcc-mingw-w64-x86-64 \
    chromium fonts-dejavu-core fonts-liberation poppler-utils qemu-system-x86 qemu-utils zsh; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
[ "$(id -u)" -eq 0 ] || as_root="sudo"
$as_root apt-get update --quiet --quiet
# shellcheck disable=SC2086 # a list of package names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends $missing

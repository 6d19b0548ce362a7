#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what the demo, `vsock guest`, the tests with real Linux guests and those with other programs need, from the repositories that apt is set
# up with, as root or by sudo. What is there already is left alone. What cannot be had is named, with what goes without
# it, and is no failure: building needs nothing but Swift. Safe to run again, and quick when all is there.
#
#   Scripts/setup.sh             install what is missing
#   Scripts/setup.sh --check     only say what is missing; status 1 when something is
#   Scripts/setup.sh --kernels   print the guest kernels of the tests that this machine can boot, of: uml,6.1,6.12
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }
have_file() { compgen -G "$1" >/dev/null; }
have_program() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
have_virtiofsd() {
    local place
    for place in /usr/libexec /usr/lib/virtiofsd /usr/lib/qemu /usr/lib /usr/local/libexec; do
        [ -x "$place/virtiofsd" ] && return
    done
    have_program virtiofsd
}

# MARK: What is missing

# Packages to install, and what each is for.
packages=()
declare -A purpose=()

want() {
    packages+=("$1")
    purpose[$1]=$2
}

check_swift() {
    have_program swift && return
    say "Swift is missing: install Swift 6.2 or later from https://www.swift.org/install/linux/"
    exit 1
}

find_missing() {
    local distribution
    distribution=$( (. /etc/os-release 2>/dev/null && printf '%s %s' "${ID:-}" "${VERSION_ID:-}") || true)
    have_program python3 || want python3 "the programs that guest and host run in the tests"
    have_program socat || want socat "the examples with socat"
    have_program tshark || want tshark "the test that holds captures against Wireshark"
    have_program valgrind || want valgrind "make gates: instructions per packet"
    have_program busybox || want busybox-static "every Linux guest: its first program"
    # Guests of the tests are x86-64 machines.
    [ "$(uname -m)" = x86_64 ] || return 0
    have_program linux.uml || want user-mode-linux "the Linux guest that needs no virtual machine"
    have_program qemu-system-x86_64 || want qemu-system-x86 "Linux guests in QEMU"
    have_program xz || want xz-utils "kernel modules of Linux guests in QEMU"
    case $distribution in
    "debian 12"*)
        have_virtiofsd || want qemu-system-common "Linux guests in QEMU: the host's files"
        have_file '/boot/vmlinuz-6.1.*' || want linux-image-cloud-amd64 "guests with Linux 6.1 in QEMU"
        have_file '/boot/vmlinuz-6.12.*' || want linux-image-6.12-cloud-amd64 "guests with Linux 6.12 in QEMU"
        have_file '/usr/src/linux-source-6.1.tar.xz' || want linux-source-6.1 "the kernel's own vsock tests in guests"
        have_file '/usr/src/linux-source-6.12.tar.xz' || want linux-source-6.12 "the kernel's own vsock tests in guests"
        ;;
    debian*)
        have_virtiofsd || want virtiofsd "Linux guests in QEMU: the host's files"
        have_file '/boot/vmlinuz-*' || want linux-image-cloud-amd64 "Linux guests in QEMU"
        ;;
    ubuntu*)
        have_virtiofsd || want virtiofsd "Linux guests in QEMU: the host's files"
        have_program zstd || want zstd "kernel modules of Linux guests in QEMU"
        have_file '/boot/vmlinuz-*' || want linux-image-virtual "Linux guests in QEMU"
        ;;
    esac
}

# MARK: Installing

# A password may be asked for, on a terminal.
may_ask() { [ -t 0 ] && [ -z "${CI:-}" ]; }

may_be_root() {
    [ "$(id -u)" = 0 ] && return
    have_program sudo && { may_ask || sudo -n true 2>/dev/null; }
}

apt_get() {
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

# Recommended packages would bring graphics and firmware that no guest here uses.
apt_install() { apt_get install --yes --no-install-recommends "$@"; }

has_candidate() {
    case $(apt-cache policy "$1" 2>/dev/null) in
    "" | *"Candidate: (none)"*) return 1 ;;
    esac
}

install_missing() {
    say "installing ${packages[*]}"
    apt_get update || say "the package lists could not be renewed; going on with those at hand"
    local package found=()
    for package in "${packages[@]}"; do
        if has_candidate "$package"; then
            found+=("$package")
        else
            say "skipped ${purpose[$package]}: apt's repositories have no $package"
        fi
    done
    [ ${#found[@]} = 0 ] && return
    apt_install "${found[@]}" && return
    say "together they could not be installed; trying one by one"
    for package in "${found[@]}"; do
        apt_install "$package" || say "skipped ${purpose[$package]}: $package could not be installed"
    done
}

skip_missing() {
    local package
    for package in "${packages[@]}"; do say "skipped ${purpose[$package]}: $package is missing, and $1"; done
    say "to have it all: sudo apt-get install ${packages[*]}"
}

# MARK: Kernels

# Ubuntu keeps its kernels from all users but root, and a guest boots only a kernel that can be read.
warn_unreadable() {
    local image
    for image in /boot/vmlinuz-*; do
        [ ! -e "$image" ] || [ -r "$image" ] || say "$image: only root may read it; for guests: sudo chmod +r $image"
    done
}

readable_kernel() {
    local image
    for image in /boot/vmlinuz-"$1".*; do [ -r "$image" ] && return; done
    return 1
}

print_kernels() {
    local kernels=() version
    have_program busybox && have_program python3 || return 0
    have_program linux.uml && kernels+=(uml)
    if have_program qemu-system-x86_64 && have_virtiofsd; then
        for version in 6.1 6.12; do readable_kernel "$version" && kernels+=("$version"); done
    fi
    (IFS=, && echo "${kernels[*]}")
}

# MARK: Commands

case "${1:-}" in
"")
    check_swift
    find_missing
    if [ ${#packages[@]} = 0 ]; then
        :
    elif ! have_program apt-get; then
        skip_missing "there is no apt here"
    elif ! may_be_root; then
        skip_missing "this is neither root nor a user who may use sudo"
    else
        install_missing
    fi
    warn_unreadable
    ;;
--check)
    check_swift
    find_missing
    [ ${#packages[@]} = 0 ] && exit
    say "missing: ${packages[*]}"
    exit 1
    ;;
--kernels)
    print_kernels
    ;;
*)
    echo "usage: $0 [--check | --kernels]" >&2
    exit 64
    ;;
esac

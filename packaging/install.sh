#!/bin/sh
# Installs pilotctl from an archive, or removes it. Nothing is fetched but what --from names.
#
#   sh install.sh                                 the archive that lies beside this script
#   sh install.sh --from FILE|URL                 another one; a .sha256 of the same name has to be there too ..
#   sh install.sh --from FILE|URL --sha256 HEX    .. unless its checksum is given
#   sh install.sh --prefix DIR                    into DIR/bin [default: ~/.local]
#   sh install.sh --uninstall [--stop]            removes it; agents that run are a reason not to, or are stopped first
#
# It writes one file, DIR/bin/pilotctl, after the checksum was found to be right, and by a rename: what was there stays until then,
# and agents that run go on with the file they were started from. It never touches PILOT_HOME (~/.pilot).
set -eu

program=pilotctl
work=
staged=

say() {
    printf '%s\n' "$*"
}

fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

clean_up() {
    if [ -n "$work" ]; then
        rm -rf "$work"
    fi
    if [ -n "$staged" ]; then
        rm -f "$staged"
    fi
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

usage() {
    sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p;}' "$0"
}

main() {
    from=
    sha256=
    prefix=${HOME:+$HOME/.local}
    uninstall=
    stop=
    while [ $# -gt 0 ]; do
        case $1 in
        --from | --sha256 | --prefix)
            [ $# -ge 2 ] || fail "$1 needs a value" "sh install.sh --help"
            case $1 in
            --from) from=$2 ;;
            --sha256) sha256=$2 ;;
            --prefix) prefix=$2 ;;
            esac
            shift
            ;;
        --uninstall) uninstall=yes ;;
        --stop) stop=yes ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) fail "no such option: $1" "sh install.sh --help" ;;
        esac
        shift
    done
    [ -n "$prefix" ] || fail "HOME is not set" "--prefix DIR says where to install"
    target=$prefix/bin/$program
    if [ -n "$uninstall" ]; then
        remove
    else
        install_new
    fi
}

install_new() {
    [ "$(uname -s)" = Linux ] || fail "archives are for Linux" "elsewhere build it: cargo install --path pilot-ctl"
    if [ -z "$from" ]; then
        from=$(archive_beside)
    fi
    work=$(mktemp -d) || fail "cannot write to ${TMPDIR:-/tmp}" "TMPDIR=DIR names another directory"
    fetch "$from" "$work/archive"
    verify "$work/archive"
    stage
    version=$("$staged" --version 2>/dev/null) ||
        fail "the program in $from does not run on this machine ($(uname -m))" "take the archive for this kind of machine"
    mv -f "$staged" "$target"
    staged=
    say "Installed $version as $target"
    advise_path
    advise_restart
}

archive_beside() {
    directory=$(dirname "$0")
    set -- "$directory/$program"-*-"$(uname -m)"-linux.tar.gz
    if [ $# -ne 1 ] || [ ! -f "$1" ]; then
        fail "there is not one archive for $(uname -m) beside this script" "--from FILE or --from URL names one"
    fi
    printf '%s\n' "$1"
}

# A file, or whatever curl or wget can get.
fetch() {
    case $1 in
    *://*)
        if command -v curl >/dev/null; then
            curl -fsSL --retry 2 -o "$2" "$1"
        elif command -v wget >/dev/null; then
            wget -q -O "$2" "$1"
        else
            fail "neither curl nor wget is here to get $1" "get it another way, then --from FILE"
        fi || fail "cannot get $1" "get it another way, then --from FILE"
        ;;
    *) cp "$1" "$2" 2>/dev/null || fail "cannot read $1" "--from names the archive, a file or a URL" ;;
    esac
}

verify() {
    if [ -z "$sha256" ]; then
        fetch "$from.sha256" "$work/sha256"
        sha256=$(cut -d ' ' -f 1 "$work/sha256")
    fi
    found=$(checksum "$1")
    [ -n "$found" ] || exit 1
    [ "$found" = "$(printf '%s' "$sha256" | tr A-F a-f)" ] ||
        fail "$from has the checksum $found, and should have $sha256" "it was damaged or changed on its way: get it again"
}

checksum() {
    if command -v sha256sum >/dev/null; then
        sha256sum <"$1"
    elif command -v shasum >/dev/null; then
        shasum -a 256 <"$1"
    elif command -v openssl >/dev/null; then
        openssl dgst -sha256 -r <"$1"
    else
        fail "no program here computes SHA-256" "install coreutils or openssl"
    fi | cut -d ' ' -f 1
}

# Only the program leaves the archive, whatever else may be in it; beside the target, so that a rename can put it there.
stage() {
    tar -xzOf "$work/archive" "$(archive_root)/$program" >"$work/$program" 2>/dev/null ||
        fail "$from is no archive of $program" "--from names a file like $program-VERSION-$(uname -m)-linux.tar.gz"
    mkdir -p "$prefix/bin" 2>/dev/null || cannot_write
    staged=$(mktemp "$prefix/bin/.$program.XXXXXX" 2>/dev/null) || cannot_write
    cat "$work/$program" >"$staged" || cannot_write
    chmod 755 "$staged"
}

cannot_write() {
    fail "cannot write to $prefix/bin" "--prefix DIR names a directory that you may write to, and that has room"
}

archive_root() {
    tar -tzf "$work/archive" 2>/dev/null | sed -n '1s|/.*||p'
}

advise_path() {
    case ":${PATH:-}:" in
    *":$prefix/bin:"*) ;;
    *) say "To find it: PATH=\"$prefix/bin:\$PATH\"" ;;
    esac
}

# The names of the agents that run in this user's home.
running_agents() {
    "$target" daemon status --json 2>/dev/null | sed -n 's/^{"name":"\([a-z0-9-]*\)".*/\1/p'
}

# Those that a service manager has started, and starts again.
supervised_agents() {
    "$target" daemon status --json 2>/dev/null | sed -n 's/^{"name":"\([a-z0-9-]*\)".*"supervised":true.*/\1/p' | one_line
}

advise_restart() {
    supervised=" $(supervised_agents) "
    for agent in $(running_agents); do
        case $supervised in
        *" $agent "*) restart="\`systemctl restart\` of its unit" ;;
        *) restart="\`pilotctl daemon restart --as $agent\`" ;;
        esac
        say "Still running what was there before: $agent. $restart ends that."
    done
    if "$target" backbone status >/dev/null 2>&1; then
        say "So is the backbone: \`pilotctl backbone stop\` ends it, and the next agent to start starts it anew; if it has a unit, restart that."
    fi
}

remove() {
    [ -e "$target" ] || fail "there is no $target" "--prefix DIR says where it was installed"
    agents=$(running_agents | one_line)
    if [ -n "$agents" ] && [ -z "$stop" ]; then
        fail "agents are running: $agents" "stop them with \`pilotctl daemon stop --all\`, or say --uninstall --stop"
    fi
    others=$(processes_elsewhere | one_line)
    if [ -n "$stop" ]; then
        # Whatever else there is may serve for agents of this home, and end with them.
        others=$(servers_among $others | one_line)
    fi
    refuse_for "$others"
    remove_units
    if [ -n "$stop" ]; then
        "$target" daemon stop --all
        wait_for_others
        refuse_for "$others"
    fi
    "$target" backbone stop 2>/dev/null || true
    rm "$target"
    say "Removed $target"
    home=${PILOT_HOME:-${HOME:-}/.pilot}
    if [ -d "$home" ]; then
        say "Kept $home: the keys in it are your agents' addresses, and nobody can make them again."
        say "Without a copy (\`pilotctl identity export\`), \`rm -r\` of that directory ends those addresses for ever."
    fi
}

refuse_for() {
    [ -z "$1" ] || fail "processes of other homes run $target: $1" "stop them with \`kill $1\`, or the units that run them with \`systemctl disable --now\`, then again"
}

# What serves for an agent that was stopped, as `answer` and `mcp serve` do, needs a moment, and its command some seconds.
wait_for_others() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        others=$(processes_elsewhere | one_line)
        [ -n "$others" ] || return 0
        sleep 1
    done
}

one_line() {
    tr '\n' ' ' | sed 's/ $//'
}

# This user's units, and the machine's if they run this program.
remove_units() {
    remove_units_of
    if grep -qs "^ExecStart=$target " /etc/systemd/system/pilot*.service; then
        remove_units_of --system
    fi
}

# Units that are still enabled are a reason to stop; that there are none is not.
remove_units_of() {
    code=0
    said=$("$target" daemon uninstall "$@" 2>&1) || code=$?
    case $code in
    0) say "$said" ;;
    4) ;;
    *)
        printf '%s\n' "$said" >&2
        exit 1
        ;;
    esac
}

# All that run the program, or one that an install has replaced, as far as this user may see them.
processes() {
    real=$(readlink -f "$target")
    for process in /proc/[0-9]*; do
        case $(readlink "$process/exe" 2>/dev/null) in
        "$real" | "$real (deleted)") printf '%s\n' "${process#/proc/}" ;;
        esac
    done
}

# Those that are not this home's.
processes_elsewhere() {
    own=$({ "$target" daemon status --json || true; "$target" backbone status --json || true; } 2>/dev/null |
        sed -n 's/.*"pid":\([0-9]*\).*/\1/p' | one_line)
    for process in $(processes); do
        case " $own " in
        *" $process "*) ;;
        *) printf '%s\n' "$process" ;;
        esac
    done
}

# The agents and backbones among processes.
servers_among() {
    for process in "$@"; do
        if { tr '\0' ' ' <"/proc/$process/cmdline"; } 2>/dev/null | grep -Eq ' (daemon|backbone) (run|start)( |$)'; then
            printf '%s\n' "$process"
        fi
    done
}

main "$@"

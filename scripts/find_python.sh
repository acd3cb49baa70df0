#!/usr/bin/env bash
# Print the first Python that Nightlabel runs on: the one given, else python3, else a versioned one.
set -u
for candidate in ${1:+"$1"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
    [ -n "${1:-}" ] && break
done
found="$("${1:-python3}" --version 2>/dev/null || echo "no ${1:-python3}")"
echo "error: found $found, and Nightlabel needs Python 3.11, 3.12 or 3.13; install one, or name it: make PYTHON=/path/to/python3.13" >&2
exit 1

#!/bin/bash
# python-image.sh NAME:TAG OUT.tar: an image of this machine's python3 with its standard library, without a daemon.
set -euo pipefail
K=$(cd "$(dirname "$0")" && pwd)
out=$2
# The interpreter, and where its library is, built modules included.
read -r python lib < <(python3 -c 'import os, sys, sysconfig
print(os.path.realpath(sys.executable), sysconfig.get_path("stdlib"))')
t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
cp -r "$lib" "$t/lib"
# What programs do not import.
rm -rf "$t"/lib/{test,idlelib,lib2to3,tkinter,ensurepip,site-packages,dist-packages,config-*}
find "$t/lib" -name __pycache__ -prune -exec rm -rf {} +
files=("$python=$python" "$t/lib=$lib")
for l in $(ldd "$python" "$t"/lib/lib-dynload/*.so 2>/dev/null | sed -nE 's#^.*[[:space:]](/[^ ]+) \(0x.*#\1#p' | sort -u); do files+=("$l=$l"); done
DIRS=/usr/bin LINKS="$python:/usr/bin/python3" bash "$K/image.sh" "$1" "$out" '["python3"]' "${files[@]}"

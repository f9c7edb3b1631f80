#!/bin/sh
# Builds the packages into dist/: deb and rpm of slipway, slipway-repo and slipway-hub, for every architecture in ARCHES.
# The same commit gives the same bytes, whatever the machine, directory, user, umask or time.
#
#   VERSION            version of the packages; default: git describe, or 0.0.0~dev
#   ARCHES             default: "amd64 arm64"
#   SOURCE_DATE_EPOCH  default: time of the last commit
#   OUT                default: dist
#   BUILD_TAGS         Go build tags; for tests
set -eu
umask 022
cd "$(dirname "$0")/.."

nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.1
: "${ARCHES:=amd64 arm64}" "${OUT:=dist}" "${BUILD_TAGS:=}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
if [ -z "${VERSION:-}" ]; then
	# v1.2.3 stays; v1.2.3-4-gabc is after 1.2.3; without a tag anything later is newer.
	VERSION=$(git describe --tags --match 'v[0-9]*' 2>/dev/null | sed -e 's/^v//' -e 's/-\([0-9]*\)-g/+\1.g/' -e 's/-/~/g')
	: "${VERSION:=0.0.0~dev}"
fi
export SOURCE_DATE_EPOCH
export LC_ALL=C TZ=UTC0
# What a person's environment could change in the bytes.
export CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOFLAGS= GOEXPERIMENT= GOTOOLCHAIN=local

mkdir -p "$OUT"
work=$(mktemp -d "$OUT/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

build() { # PROGRAM GOARCH FILE
	# The one program that the C library's loader loads, so the loader's hardening counts; the others are static.
	case $1 in slipway-sign-pkcs11) set -- "$@" -buildmode=pie -bindnow ;; *) set -- "$@" -buildmode=exe '' ;; esac
	GOOS=linux GOARCH=$2 go build -trimpath -buildvcs=false -tags "$BUILD_TAGS" "$4" \
		-ldflags "-s -w -buildid= -X main.version=$VERSION $5" -o "$3" "./cmd/$1"
}

document() { # PROGRAM: manual pages and completions, by running it; defaults from the environment must not get in
	mkdir -p "$work/man"
	env -i SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$work/$host/$1" man "$work/man/$1"
	gzip -9n "$work/man/$1"/*
	mkdir -p "$work/completions"
	for shell in bash zsh fish; do
		env -i "$work/$host/$1" completion $shell >"$work/completions/$1.$shell"
	done
}

changelog() { # PACKAGE: Debian's changelog has one entry; the project's own lies beside it
	mkdir -p "$work/doc/$1"
	printf '%s (%s-1) unstable; urgency=medium\n\n  * See changelog.gz for what changed.\n\n -- Slipway authors <%s>  %s\n' \
		"$1" "$VERSION" "$MAINTAINER" "$(date -u -d "@$SOURCE_DATE_EPOCH" '+%a, %d %b %Y %H:%M:%S +0000')" |
		gzip -9n >"$work/doc/$1/changelog.Debian.gz"
	gzip -9nc CHANGELOG.md >"$work/doc/$1/changelog.gz"
	cp packaging/copyright "$work/doc/$1/copyright"
}

MAINTAINER=slipway-deploy@users.noreply.github.com
host=$(go env GOHOSTARCH)
for arch in $(printf '%s\n' $host $ARCHES | sort -u); do
	for program in slipwayd slipway slipway-repo slipway-sign-pkcs11 slipway-hub; do
		build $program "$arch" "$work/$arch/$program"
	done
done
for program in slipway slipway-repo slipway-hub; do
	document $program
	changelog $program
done
gzip -9nc packaging/man/slipwayd.8 >"$work/man/slipway/slipwayd.8.gz"
# Whatever umask the tree was checked out with.
chmod -R u=rwX,go=rX "$work"

manpages() { # PROGRAM: rpm wants each page marked as documentation, which nfpm does for single files only
	for page in "$work/man/$1"/*.gz; do
		name=${page##*/} section=${page%.gz}
		to="dst: /usr/share/man/man${section##*.}/$name, file_info: {mode: 0644}"
		printf '  - {src: "%s", %s, packager: deb}\n  - {src: "%s", %s, packager: rpm, type: doc}\n' "$page" "$to" "$page" "$to"
	done
}

package() { # CONFIG PROGRAM: nfpm fills in variables in a few fields only, so all of them are filled in here
	manpages "$2" >"$work/manpages.yaml"
	sed -e "/# \${MANPAGES}/r $work/manpages.yaml" -e "s|\${WORK}|$work|" -e "s|\${ARCH}|$arch|" -e "s|\${VERSION}|$VERSION|" -e "s|\${MAINTAINER}|$MAINTAINER|" \
		"$1" >"$work/nfpm.yaml"
	for packager in deb rpm; do
		go run $nfpm package --config "$work/nfpm.yaml" --packager $packager --target "$OUT" >"$work/nfpm.log" || {
			cat "$work/nfpm.log" >&2
			return 1
		}
		sed -n 's/^created package: //p' "$work/nfpm.log"
	done
}

for arch in $ARCHES; do
	package nfpm.yaml slipway
	package packaging/nfpm-publisher.yaml slipway-repo
	package packaging/nfpm-hub.yaml slipway-hub
done

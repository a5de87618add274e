#!/bin/bash
# The build itself, called by kube.sh when the source and Go are unpacked below $SCRATCH; needs no network. Progress goes
# to descriptor 3, what the compiler says to the standard ones.
set -euo pipefail
source=$SCRATCH/gopath/src/k8s.io/kubernetes
export GOROOT=$SCRATCH/tree/usr/lib/go-$GO GOPATH=$SCRATCH/gopath GOCACHE=$SCRATCH/gocache GOTMPDIR=$SCRATCH
# The tree vendors all it needs; its own build uses no modules either, and its generator wants a GOPATH.
export GO111MODULE=off GOFLAGS='' GOENV=off GOPROXY=off CGO_ENABLED=0 PATH=$GOROOT/bin:$PATH
cores=$(nproc)
say() { printf 'kube: %4d s  %s\n' $(($(date +%s) - BEGAN)) "$*" >&3; }
cd "$source"

# Its reflect2 crashes with Go 1.18 and later, at the first write of a custom resource; Debian packages one that does not.
# Debian's own patches of the source touch kubectl only, which is not built here.
rm -rf vendor/github.com/modern-go/reflect2
cp -r "$SCRATCH/tree/usr/share/gocode/src/github.com/modern-go/reflect2" vendor/github.com/modern-go/

# Its validation of custom resources compares two reflect.Values by what is inside of them: since Go 1.18 that is the same
# for "" and for the zero value, and every empty string would be refused as null. Before, only null came here, as now.
zero='data == nil || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data))'
validation=vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go
grep -qF "if $zero {" "$validation"
sed -i "s/if $zero {/if data == nil {/" "$validation"

say "generating the OpenAPI definitions"
go build -p "$cores" -o "$SCRATCH/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
inputs=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd plugin staging/src/k8s.io |
    grep -v -e '^staging/src/k8s.io/code-generator/' -e '^staging/src/k8s.io/sample-' -e /testdata/ |
    sed -E 's,/[^/]*$,,; s,^staging/src/,vendor/,; s,^,k8s.io/kubernetes/,' | LC_ALL=C sort -u | paste -sd,)
"$SCRATCH/openapi-gen" --logtostderr -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$SCRATCH/violations"

version() { # VARIABLE VALUE: for both packages that hold it
    local vendored=k8s.io/kubernetes/vendor/k8s.io
    echo "-X $vendored/client-go/pkg/version.$1=$2 -X $vendored/component-base/version.$1=$2"
}
minor=${KUBERNETES#*.}
flags="-s -w $(version gitVersion "v$KUBERNETES") $(version gitMajor "${KUBERNETES%%.*}") $(version gitMinor "${minor%%.*}")"
for name in kube-apiserver kube-controller-manager; do
    say "building $name on $cores cores"
    go build -p "$cores" -trimpath -tags providerless -ldflags "$flags" -o "$SCRATCH/result/$name" "./cmd/$name"
done

#!/bin/bash
# import.sh FOLDER KEY RELEASE TEE NAME RESOURCE-GROUP LOCATION STORAGE-ACCOUNT CONTAINER GALLERY VERSION
. "$(dirname "$0")/../common.sh"
folder=$1 tee=$4 name=$5 group=$6 location=$7 account=$8 container=$9 gallery=${10} version=${11}
offered Azure "$tee" snp tdx none
need az
[ -f "$folder/podvm.vhd" ] || fail "$folder has no podvm.vhd: build the image with formats=true"
verified "$folder" "$2" "$3"
security=ConfidentialVmSupported
[ "$tee" != none ] || security=TrustedLaunchSupported
blob=$name-$version.vhd
definition=(--resource-group "$group" --gallery-name "$gallery" --gallery-image-definition "$name")

say "uploading the disk"
trap 'az storage blob delete --auth-mode login --account-name "$account" --container-name "$container" --name "$blob" \
    --only-show-errors || true' EXIT
az storage blob upload --auth-mode login --account-name "$account" --container-name "$container" --name "$blob" \
    --type page --overwrite --no-progress --only-show-errors --file "$folder/podvm.vhd" > /dev/null
az sig image-definition show "${definition[@]}" > /dev/null 2>&1 ||
    az sig image-definition create "${definition[@]}" --location "$location" --publisher peerpods --offer "$name" \
        --sku "$tee" --os-type Linux --os-state Specialized --hyper-v-generation V2 \
        --features "SecurityType=$security" > /dev/null
say "making version $version of $name"
az sig image-version create "${definition[@]}" --location "$location" --gallery-image-version "$version" \
    --os-vhd-storage-account "$account" \
    --os-vhd-uri "https://$account.blob.core.windows.net/$container/$blob" --query id --output tsv

#!/bin/bash
# import.sh FOLDER KEY RELEASE TEE NAME REGION BUCKET [UEFI-DATA]
. "$(dirname "$0")/../common.sh"
folder=$1 tee=$4 name=$5 bucket=$7 data=${8:-}
export AWS_DEFAULT_REGION=$6 AWS_PAGER=
offered AWS "$tee" snp none
need aws
verified "$folder" "$2" "$3"

key=$name-$$.raw
trap 'aws s3 rm --quiet "s3://$bucket/$key" || true' EXIT
say "uploading the disk"
aws s3 cp --quiet "$folder/podvm.raw" "s3://$bucket/$key"
task=$(aws ec2 import-snapshot --description "$name" --query ImportTaskId --output text \
    --disk-container "Format=RAW,UserBucket={S3Bucket=$bucket,S3Key=$key}")
say "importing the snapshot ($task)"
aws ec2 wait snapshot-imported --import-task-ids "$task"
snapshot=$(aws ec2 describe-import-snapshot-tasks --import-task-ids "$task" --output text \
    --query 'ImportSnapshotTasks[0].SnapshotTaskDetail.SnapshotId')
options=()
[ -z "$data" ] || options=(--uefi-data "$(cat "$data")")
ami=$(aws ec2 register-image --name "$name" --architecture x86_64 --virtualization-type hvm --ena-support \
    --boot-mode uefi --tpm-support v2.0 --imds-support v2.0 --root-device-name /dev/xvda \
    --block-device-mappings "DeviceName=/dev/xvda,Ebs={SnapshotId=$snapshot,VolumeType=gp3,DeleteOnTermination=true}" \
    "${options[@]}" --query ImageId --output text)
echo "$ami"

#!/bin/busybox sh
# What busybox's DHCP client calls at each change of its lease: address, route and resolver of the VM itself.
bb=/usr/bin/busybox
case $1 in
deconfig) [ ! -e /run/resolv.conf ] || $bb ip address flush dev "$interface" scope global 2> /dev/null ;;
bound | renew)
    $bb ip address replace "$ip/${mask:-24}" dev "$interface"
    read -r now < "/sys/class/net/$interface/mtu"
    [ "${mtu:-$now}" = "$now" ] || $bb ip link set "$interface" mtu "$mtu"
    metric=0
    for gateway in $router; do
        $bb ip route replace default via "$gateway" dev "$interface" metric $metric
        metric=$((metric + 1))
    done
    {
        [ -z "$domain" ] || echo "search $domain"
        for server in $dns; do echo "nameserver $server"; done
    } > /run/resolv.conf.new
    $bb mv /run/resolv.conf.new /run/resolv.conf
    read -r up rest < /proc/uptime
    echo "peerpods[$up] address $ip" > /dev/console
    ;;
esac
exit 0

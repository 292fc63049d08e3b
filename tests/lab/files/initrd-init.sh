#!/bin/busybox sh
# Sets up the network, finds the disk and hands over to it.
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
for module in $($B cat /modules/order); do
  $B insmod "/modules/$module" || echo "initrd: $module does not load" > /dev/console
done
# The addresses of qemu's own network. They stay when the cable is pulled.
$B ip link set lo up
$B ip link set eth0 up
$B ip address add 10.0.2.15/24 dev eth0
$B ip route add default via 10.0.2.2
until [ -b /dev/vda ]; do $B usleep 20000; done
$B mount -t ext4 -o rw,noatime /dev/vda /root || exec $B sh
$B umount /proc /sys
$B mount --move /dev /root/dev
exec $B switch_root /root /lib/systemd/systemd

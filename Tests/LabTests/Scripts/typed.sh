# typed.sh: types the lines of /lines that start Linux, as pages show them, where build/vmtally and `make guest`'s files are.
mkdir -p /checkout/build
ln -s /bin/vmtally /checkout/build/vmtally
ln -s /guest /checkout/build/guest
mkdir -p /root/.cache/vmtally
ln -s /guest /root/.cache/vmtally/guest
export HOME=/root
cd /checkout || exit
while IFS= read -r line; do
	echo "=== $line"
	# Who is given a shell switches off; the others have ended before they read it.
	while sleep 3 && echo poweroff -f; do :; done 2>/dev/null | sh -c "$line" 2>&1
	echo "status $?"
done </lines

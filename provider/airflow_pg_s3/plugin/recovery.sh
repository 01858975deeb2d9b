# 3. Download
mkdir -p "$WORK/stored" "$WORK/archive"
cd "$WORK"
$AWS s3 cp --only-show-errors "$FOLDER/$BACKUP.json" manifest.json
$AWS s3 cp --only-show-errors "$FOLDER/$BACKUP/members.json.zst" members.json.zst
field() { jq -r ".$1" manifest.json; }
echo "$(field members.sha256)  members.json.zst" | sha256sum --check --quiet
zstd --decompress --quiet --force members.json.zst
echo "backup of $(field database), PostgreSQL $(field server.version), $(field tables) tables, $(field rows) rows"
echo "it takes $(field stored_bytes) bytes or more in $WORK/stored, $(field raw_bytes) in $WORK/archive"
df -h "$WORK"

for id in $(jq -r '[.backup_id, (.runs | keys[])] | unique[]' manifest.json); do
    $AWS s3 cp --only-show-errors --recursive "$FOLDER/$id/" "stored/$id/"
done

# 4. Unpack
opened() { case $1 in *.age) age --decrypt --identity "$AGE_IDENTITY" ;; *) cat ;; esac | zstd --decompress --stdout; }
part() { dd if="stored/$1" skip="$2" count="$3" iflag=skip_bytes,count_bytes bs=1M status=none; }
chunks() {  # chunks MEMBER: object, offset, length and SHA-256 of each of its chunks
    jq -r --arg name "$1" 'select(.name == $name) | .extents[]? | [.sha256, .stored_bytes] as [$sha256, $bytes] |
        .key as $key | foreach range($bytes | length) as $n ({end: .offset}; {at: .end, end: (.end + $bytes[$n])};
        "\($key) \(.at) \($bytes[$n]) \($sha256[$n])")' members.json
}
unpack() {  # unpack MEMBER: its chunks, each of which is compared with its digest
    chunks "$1" | while read -r object at length sha256; do
        found=$(part "$object" "$at" "$length" | opened "$object" | tee -a "archive/$1" | sha256sum)
        [ "${found%% *}" = "$sha256" ] || { echo "$1: damaged at byte $at of $object"; exit 1; }
    done
}
export AGE_IDENTITY
export -f opened part chunks unpack

jq -r '.pack // empty' members.json | sort -u | while read -r pack; do
    opened "$pack" < "stored/$pack" | tar --extract --directory archive
done
jq -r 'select(.pack == null) | .name' members.json | xargs -P "$JOBS" -I '{}' bash -o pipefail -c 'unpack {}'

# 5. Check
jq -r 'select(.pack) | "\(.sha256)  archive/\(.name)"' members.json | sha256sum --check --quiet

# 6. Restore
if [ -e archive/globals.sql ]; then psql --dbname=postgres --file=archive/globals.sql; fi

createdb --template=template0 --encoding="$(field server.encoding)" \
    --lc-collate="$(field server.collate)" --lc-ctype="$(field server.ctype)" "$NEW_DATABASE"
pg_restore --format=directory --jobs="$JOBS" --exit-on-error --dbname="$NEW_DATABASE" archive
psql --dbname="$NEW_DATABASE" --command='ANALYZE'

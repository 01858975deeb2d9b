-- One table of business data: keys, times, states, amounts, names and a little JSON; `rows`, `table` and `first` from psql.
-- Everything is a hash of the row's number, so that the same call always makes the same data.
CREATE TABLE :"table" AS
SELECT
    i AS id,
    md5('customer' || h % 200000)::uuid AS customer,
    '2024-01-01 00:00+00'::timestamptz + i * interval '1 second' + (h & 1023) * interval '1 ms' AS placed_at,
    CASE WHEN h & 15 > 3 THEN '2024-01-02 00:00+00'::timestamptz + (i + (h & 65535)) * interval '1 second' END AS shipped_at,
    (ARRAY['new', 'paid', 'packed', 'shipped', 'shipped', 'shipped', 'returned', 'cancelled'])[(h & 7) + 1] AS status,
    (((h >> 8) & 1048575) / 100.0)::numeric(12, 2) AS total,
    first_names[(h >> 3) % 16 + 1] || ' ' || last_names[(h >> 7) % 16 + 1] || ((h >> 11) & 255) || '@example.com' AS email,
    jsonb_build_object(
        'sku', 'SKU-' || to_char((h >> 5) % 20000, 'FM00000'), 'quantity', (h & 7) + 1, 'gift', h & 31 = 0,
        'channel', (ARRAY['web', 'app', 'phone', 'store'])[(h >> 9) % 4 + 1]) AS details,
    words[(h >> 2) % 32 + 1] || ' ' || words[(h >> 6) % 32 + 1] || ' ' || words[(h >> 10) % 32 + 1] || ' ' || words[(h >> 14) % 32 + 1]
        || ' ' || words[(h >> 18) % 32 + 1] || ' ' || words[(h >> 22) % 32 + 1] || ' ' || words[(h >> 26) % 32 + 1] AS note
FROM
    (SELECT i, hashint8extended(i, 42) & 9223372036854775807 AS h FROM generate_series(:first::bigint, :first + :rows - 1) AS i) AS numbered,
    (SELECT string_to_array('Ada,Ben,Chloé,Dmitri,Eve,Fatima,Grace,Hiro,Inês,Jörg,Kofi,Lena,Mateo,Nora,Omar,Priya', ',') AS first_names,
        string_to_array('Adams,Becker,Costa,Diallo,Eriksen,Fischer,García,Haddad,Ivanov,Jensen,Kim,López,Müller,Novak,Okafor,Petrov', ',') AS last_names,
        string_to_array('please,deliver,after,six,to,the,back,door,and,ring,twice,leave,parcel,with,neighbour,fragile,gift,wrap,invoice,by,email,'
            'call,before,arrival,customer,asked,for,refund,damaged,box,checked,again', ',') AS words) AS vocabulary;
ALTER TABLE :"table" ADD PRIMARY KEY (id);

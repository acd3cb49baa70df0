-- A store that repeats a page, or changes while it is listed, may show a key twice: the newest version counts.
DELETE FROM listed AS a
USING (
    SELECT ctid AS row, row_number() OVER (PARTITION BY object_key ORDER BY last_modified DESC, etag) AS place
    FROM listed
) AS b
WHERE a.ctid = b.row AND b.place > 1;

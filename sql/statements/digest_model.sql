-- What a check was of, in one digest: all that decides the answers of a registered model.
SELECT encode(sha256(convert_to(
    m.files::text || m.label_map::text || m.preprocessing::text || m.artefacts::text, 'UTF8'
)), 'hex')
FROM nightlabel.model AS m
WHERE m.name = %(name)s AND m.version = %(version)s;

-- The documents of an image as its source gave them: they name its layers, and make it again as it was.
ALTER TABLE image ADD COLUMN manifest BLOB;
ALTER TABLE image ADD COLUMN config BLOB;

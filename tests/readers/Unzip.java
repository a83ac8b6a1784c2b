import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipInputStream;

/**
 * Extracts into a directory: the archive at a path, or of it only the member that is named, or the
 * archive that comes through a pipe.
 */
class Unzip {
    public static void main(String[] arguments) throws Exception {
        Path target = Path.of(arguments[0]);
        if (arguments.length > 1) {
            try (ZipFile archive = new ZipFile(arguments[1])) {
                for (ZipEntry entry : Collections.list(archive.entries())) {
                    if (arguments.length == 3 && !entry.getName().equals(arguments[2])) {
                        continue;
                    }
                    try (InputStream contents = archive.getInputStream(entry)) {
                        extract(target, entry, contents);
                    }
                }
            }
        } else {
            ZipInputStream archive = new ZipInputStream(System.in);
            for (ZipEntry entry; (entry = archive.getNextEntry()) != null; ) {
                extract(target, entry, archive);
            }
        }
    }

    private static void extract(Path target, ZipEntry entry, InputStream contents)
            throws Exception {
        Path path = target.resolve(entry.getName());
        if (entry.isDirectory()) {
            Files.createDirectories(path);
            return;
        }
        Files.createDirectories(path.getParent());
        try (OutputStream file = Files.newOutputStream(path)) {
            contents.transferTo(file);
        }
        if (Files.size(path) != entry.getSize()) {
            throw new Exception(entry + " has " + Files.size(path) + " bytes");
        }
    }
}

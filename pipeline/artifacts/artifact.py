"""An artifact is a list of content-addressed files; some of them hold documents, which are typed."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Self, TypeVar

from pydantic import BaseModel

from pipeline.canonical import Frozen, canonical_json, digest_of
from pipeline.storage.content import BlobRef, ContentStore

Document = TypeVar("Document", bound=BaseModel)


class FileRef(Frozen):
    """One file of an artifact: its path inside it and the blob that holds it."""

    path: str
    blob: BlobRef


class Artifact(Frozen):
    """The base of all kinds. `content`: the documents that artifacts of a kind hold, by the paths of their
    files; an artifact may lack some of them. `repeatable`: False if equal work makes other bytes, because
    there are times in them."""

    repeatable: ClassVar[bool] = True
    content: ClassVar[Mapping[str, type[BaseModel]]] = {}
    files: tuple[FileRef, ...]

    @classmethod
    def path_of(cls, document: type[BaseModel]) -> str:
        """The path of the file that holds a document. Raises KeyError that names the known documents."""
        for path, held in cls.content.items():
            if held is document:
                return path
        known = [held.__name__ for held in cls.content.values()]
        raise KeyError(f"{cls.__name__} holds no {document.__name__}; add it to its content beside {known}")

    @classmethod
    def put(cls, store: ContentStore, document: BaseModel) -> FileRef:
        """Store one document."""
        return FileRef(path=cls.path_of(type(document)), blob=store.put_bytes(canonical_json(document)))

    @classmethod
    def made(cls, store: ContentStore, *documents: BaseModel, files: Iterable[FileRef] = ()) -> Self:
        """Store some documents, and return the artifact of them and of stored files, ordered by path."""
        every = [*files, *(cls.put(store, document) for document in documents)]
        return cls(files=tuple(sorted(every, key=lambda file: file.path)))

    def load(self, store: ContentStore, document: type[Document]) -> Document:
        """Read one of the documents. Raises KeyError when this artifact lacks it."""
        return document.model_validate_json(store.get_bytes(self.file(self.path_of(document))))

    def find(self, store: ContentStore, document: type[Document]) -> Document | None:
        """Read one of the documents; None when this artifact lacks it."""
        there = self.path_of(document) in {file.path for file in self.files}
        return self.load(store, document) if there else None

    @property
    def digest(self) -> str:
        """Content hash of kind, paths and blobs: equal artifacts have equal digests, wherever made."""
        return digest_of(self)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.blob.size for file in self.files)

    def file(self, path: str) -> BlobRef:
        """The blob of one file. Raises KeyError that names the files there are."""
        for file in self.files:
            if file.path == path:
                return file.blob
        raise KeyError(f"{path!r} is not among {[file.path for file in self.files]}")

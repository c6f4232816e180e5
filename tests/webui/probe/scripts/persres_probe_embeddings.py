"""For the tests: what the WebUI's prompts look embeddings up in, and a text encoder that breaks where it is told to."""

from modules import script_callbacks


def reader():
    from lib_persres.webui.host import HOST

    return HOST.text_encoder(HOST.model())


def database() -> dict:
    """Names and ids in their order; the embeddings by their identity."""
    db = getattr(reader(), "embeddings", None)
    if db is None:
        from modules import sd_hijack

        db = sd_hijack.model_hijack.embedding_db
    return {
        "names": [[name, id(embedding)] for name, embedding in db.word_embeddings.items()],
        "lookup": [[f, [[ids, e.name, id(e)] for ids, e in found]] for f, found in db.ids_lookup.items()],
        "skipped": list(db.skipped_embeddings),
    }


class Encoding:
    """Keeps what the database is when the text encoder is next called, and may raise then."""

    handle = None

    def watch(self, how: str):
        self.how, self.seen = how, None
        encoder = reader()
        encoder = encoder.wrapped if hasattr(encoder, "wrapped") else encoder.text_encoder
        self.handle = encoder.transformer.register_forward_pre_hook(self)

    def __call__(self, module, args):
        self.seen = database()
        self.handle.remove()
        if self.how == "raise":
            raise RuntimeError("broken by the test")


ENCODING = Encoding()


def read_again():
    """A host that reads the users' embeddings with the model alone does it now."""
    if own := getattr(reader(), "embeddings", None):
        own.load_textual_inversion_embeddings()


def routes(_, app):
    app.post("/probe/embeddings/read")(lambda: read_again())
    app.get("/probe/embeddings")(lambda: database())
    app.post("/probe/encoding/{how}")(lambda how: ENCODING.watch(how))
    app.get("/probe/encoding")(lambda: ENCODING.seen)


script_callbacks.on_app_started(routes)

"""What a result rests on: the user's code that ran for it is recorded, and held against today's before it is believed.

``following`` sees which functions run, ``reach`` finds what could, ``modules`` where they live, ``state`` what they
refer to, and ``footprint`` makes the record and compares it.
"""
